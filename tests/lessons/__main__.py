"""Write the exercises anew from their solutions: python -m tests.lessons."""

import nbformat

from tests.lessons.exercises import LESSONS, SOLUTIONS, exercise, read

for path in SOLUTIONS:
    nbformat.write(exercise(read(path)), LESSONS / path.name)
