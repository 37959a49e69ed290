"""What the lessons in `notebooks/lessons/` are made of: questions before answers, checks, and pages for a classroom.

`predict` asks and shows the answer when a guess is locked; `check` looks at what a student made of an exercise and says
what is wrong with it; `python -m fimviz.lessons build FOLDER` makes pages and slides of notebooks that need no kernel
and no network.
"""

from fimviz.lessons import check
from fimviz.lessons.guess import predict

__all__ = ["check", "predict"]
