"""A real Chromium, offline, for the views. The system's: Playwright's own download is not needed."""

import json
import os
import shutil
import sys

import pytest


@pytest.fixture(scope="session")
def chromium():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a file without any network; a console error or a request that leaves the machine fails the test.

    `foreign` are the starts of addresses that the page's own frame asks for and that may fail.
    """
    contexts, complaints = [], []

    def open_file(path, wait=".fv-slider", foreign=(), **options):
        context = chromium.new_context(**{"offline": True, "viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()

        def heard(message):
            if message.type == "error" and not message.location["url"].startswith(foreign):
                complaints.append(message.text)

        def asked(request):
            if request.url.startswith("http") and not request.url.startswith(foreign):
                complaints.append(request.url)

        page.on("console", heard)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("request", asked)
        page.goto(path.as_uri())
        if wait:
            page.wait_for_selector(wait)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []


@pytest.fixture
def opened(open_page, tmp_path):
    """Save a result, with options of its view, and open the page."""

    def show(result, options=None, **page):
        return open_page(result.save(tmp_path / "view.html", **(options or {})), **page)

    return show


@pytest.fixture(scope="session")
def jupyter_env(tmp_path_factory):
    """The environment of a Jupyter process that reads and writes nothing of the user's."""
    home = tmp_path_factory.mktemp("jupyter")
    names = ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")
    places = [f"JUPYTER_{n}" for n in names] + [f"JUPYTERLAB_{n}_DIR" for n in ("SETTINGS", "WORKSPACES")]
    folders = {place: home / place.lower() for place in [*places, "IPYTHONDIR"]}
    for folder in folders.values():
        folder.mkdir()
    # JupyterLab's news would ask a server for them, and a dialog about them would take the focus
    labconfig = folders["JUPYTER_CONFIG_DIR"] / "labconfig"
    labconfig.mkdir()
    disabled = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}
    (labconfig / "page_config.json").write_text(json.dumps(disabled))
    return {
        **os.environ,
        **{place: str(folder) for place, folder in folders.items()},
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PATH": os.pathsep.join([os.path.dirname(sys.executable), os.environ.get("PATH", "")]),
        # the threads of a kernel that shares its processors with a browser would wait for each other without sleeping
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture(scope="session")
def lab(tmp_path_factory, jupyter_env):
    """A running JupyterLab with a folder of its own."""
    pytest.importorskip("jupyterlab", reason="JupyterLab is absent: pip install 'fimviz[lab]'")
    from tests.browser.lab import Lab

    with Lab(tmp_path_factory.mktemp("lab"), jupyter_env, tmp_path_factory.mktemp("log") / "jupyterlab.log") as running:
        yield running
