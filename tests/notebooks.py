"""Run notebooks and store their outputs: python -m tests.notebooks notebooks/NAME.ipynb …

Live widgets are left out of what is stored: without their kernel they would show "model not found".
"""

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path):
    notebook = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(Path(path).parent)}}
    NotebookClient(notebook, timeout=300, resources=folder).execute()
    notebook.metadata.pop("widgets", None)  # which an `Output` needs while it runs
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # time stamps
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
    CoalesceStreamsPreprocessor().preprocess(notebook, {})  # a busy machine sends a print in pieces
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for path in sys.argv[1:]:
        run(path)
