"""What docs/teaching.md says is so: minutes as in the notebooks, and the answers of its exam."""

import math
import re
from pathlib import Path

import pytest
import torch

import fimviz as fv
from fimviz.margins import simplex
from tests.lessons.exercises import SOLUTIONS, read

TEXT = (Path(__file__).parents[2] / "docs" / "teaching.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_minutes_are_those_of_the_headings(path):
    text = "\n".join(cell.source for cell in read(path).cells if cell.cell_type == "markdown")
    headings = [int(m) for m in re.findall(r"^## \d · .*\((\d+) minutes\)$", text, re.M)]
    (row,) = re.findall(rf"^\| {path.stem[0]} \| (\d.*) \|$", TEXT, re.M)
    assert [int(part.split()[0]) for part in row.split(" · ")] == [*headings, 5]


def test_answers_of_the_exam():
    """Each number that an answer gives, from fimviz or its closed form."""
    net, digit = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:1]
    assert fv.spectrum(net, digit).eigenvalues.shape[1] == 9
    assert "At most 9" in TEXT
    layer = torch.nn.Linear(1, 2, bias=False).double()
    layer.weight.data = torch.tensor([[2.0], [-2.0]]).double()
    x = torch.tensor([[math.log(9) / 4], [0.0]]).double()
    found = fv.spectrum(layer, x)
    assert found.confidence[0] == pytest.approx(0.9)
    assert found.spectral_norm.tolist() == pytest.approx([1.44, 4])
    assert "0.09 · 16 = 1.44; ¼ · 16 = 4" in TEXT
    p = torch.tensor([0.64, 0.36]).double().log()
    floor = simplex.boundary_distance(p, torch.tensor(0), torch.tensor(1))
    for said, value in {
        "√(0.02/50) = 0.02": math.sqrt(0.02 / 50),
        "2/255 · √150,528 = 3.04": 2 / 255 * math.sqrt(150_528),
        "0.05 · 0.25 · 255 = 3.2": 0.05 * 0.25 * 255,
        "3/(2·30) = 0.05": 3 / (2 * 30),
        "2 arcsin((0.8 − 0.6)/√2) = 0.284": float(floor),
        "√D is 388": math.sqrt(150_528),
    }.items():
        assert said in TEXT
        digits = re.search(r"[\d.]+$", said)[0]
        assert f"{value:.{len(digits.partition('.')[2])}f}" == digits, said
