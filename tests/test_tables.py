"""One file and one row: a toy method, estimator, bound and attack are run, shown and named wherever such things are."""

import base64
import json
import zlib
from dataclasses import replace

import pytest
import torch

import fimviz as fv
from fimviz.attacks.attack import Attack
from fimviz.attacks.search import along, bracketed
from fimviz.attacks.table import ATTACKS
from fimviz.bounds.formulas import RUNGS
from fimviz.bounds.ladder import Formula
from fimviz.comparison import ways
from fimviz.fisher.estimators import ESTIMATORS, Estimator
from fimviz.fisher.exact import exact
from fimviz.fisher.method import Method
from fimviz.fisher.table import METHODS

WORDS = {"guarantee": "upper", "needs": "luck & patience", "short": "a toy’s few words", "formula": "twice λ₁"}


@pytest.fixture(autouse=True)
def toys(monkeypatch):
    """A row in each table: twice the exact spectrum, the value 7, 10⁹, and a step along the first pixel."""

    def twice(ground, asked):
        block = exact(ground, asked.k, asked.vectors, asked.cotangents)
        return replace(block, eigenvalues=2 * block.eigenvalues)

    def seven(net, x, *, probes, seed):
        value = torch.full((len(x),), 7.0, dtype=torch.float64)
        none = torch.zeros(len(x), dtype=torch.int64)
        template = ESTIMATORS["published-whitebox"].run(net, x, probes=probes, seed=seed)
        return replace(template, value=value, low=value, high=value, forwards=none, vjps=none, history=value[:, None])

    def first_pixel(problem, options):
        first = torch.eye(problem.x[0].numel())[0].expand(len(problem.x), -1).view_as(problem.x)
        return along(lambda part, at: part.both_ways(first[at]))

    monkeypatch.setitem(METHODS, "toy", Method(name="toy", run=twice, **WORDS))
    monkeypatch.setitem(ESTIMATORS, "toy-estimate", Estimator(name="toy-estimate", run=seven, **WORDS))
    huge = Formula(
        name="toy-bound",
        bound=lambda ladder: (torch.full((len(ladder.x),), 9.0, dtype=torch.float64), ""),
        shares=(),
        **WORDS,
    )
    monkeypatch.setitem(RUNGS, "toy-bound", huge)
    attack = Attack(name="toy", aim=first_pixel, search=bracketed(first_pixel), passes=lambda options: 1.0, **WORDS)
    monkeypatch.setitem(ATTACKS, "toy", attack)


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    return fv.zoo.load("digits-mlp"), images[:4], labels[:4]


def data_of(figure):
    raw = zlib.decompress(base64.b64decode(figure.state["payload"]))
    return json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")])


def test_a_method(digits):
    net, x, y = digits
    s, truth = fv.spectrum(net, x, k=1, method="toy"), fv.spectrum(net, x, k=1)
    assert (s.method, s.guarantee) == ("toy", "upper")
    assert torch.equal(s.spectral_norm, 2 * truth.spectral_norm)
    compared = fv.compare_models({"a": net, "b": net}, x, y, method="toy", attack_images=1, local_images=1)
    assert compared.models["a"].method == "toy"
    assert fv.explore(net, x, y, method="toy").models[""].spectrum.method == "toy"


def test_it_is_named_among_the_others(digits):
    net, x, y = digits
    named = "expected one of auto, exact, lanczos, power, blackbox, toy"
    with pytest.raises(ValueError, match=named):
        fv.spectrum(net, x, method="exakt")
    with pytest.raises(ValueError, match=r"auto, exact, lanczos, toy: did you mean exact\?"):
        fv.compare_models({"a": net, "b": net}, x, y, method="exakt")
    with pytest.raises(ValueError, match="auto, exact, lanczos, power, toy"):
        fv.explore(net, x, y, method="blackbox")
    every = r"toy, published-whitebox, .*, toy-estimate, L1, .*, toy-bound for this model"
    with pytest.raises(ValueError, match=every):
        fv.compare_bounds(net, x, methods=["L9"])
    with pytest.raises(ValueError, match="spectral, fgsm, pgd, descent, random, autoattack, toy, foolbox:NAME"):
        fv.vulnerability(net, x, y, attacks=["best"])


def test_it_stands_in_the_comparison_and_in_its_view(digits):
    net, x, _ = digits
    names = ["exact", "toy", "toy-estimate", "toy-bound"]
    c = fv.compare_bounds(net, x, methods=names)
    assert (c.methods["toy"].value == 2 * c.methods["exact"].value).all()
    assert (c.methods["toy-estimate"].value == 7).all()
    assert (c.methods["toy-bound"].high == 1e9).all()
    assert c.needs == {name: ways()[name].needs for name in names}
    rows = {row["name"]: row for row in data_of(c.view())["methods"]}
    groups = {"toy": "estimate", "toy-estimate": "estimate", "toy-bound": "ladder"}
    assert {name: rows[name]["group"] for name in groups} == groups
    assert all(rows[name][word] == WORDS[word] for name in groups for word in ("needs", "short", "formula"))
    assert {"toy", "toy-bound"} <= set(fv.compare_bounds(net, x[:1], probes=3).methods), "all means these too"
    (seen,) = fv.explore(net, x, detail=1, include=["bounds"]).models.values()
    assert "toy-bound" in seen.bounds.methods


def test_an_attack(digits):
    net, x, y = digits
    v = fv.vulnerability(net, x, y, attacks=["fgsm", "toy"], halvings=2, max_epsilon=20.0)
    assert v.attacks == (("fgsm", "l2"), ("toy", "l2"))
    moved = (v.moved[:, 1] - v.spectrum.images).flatten(1)
    assert not moved[:, 1:].any(), "along the first pixel alone"
    near = fv.local_accuracy(net, x, y, directions="toy", norms="l2", epsilons=[0.1])
    assert data_of(near.view())["panels"][0]["lines"][0]["name"] == WORDS["short"]
    with pytest.raises(ValueError, match="worst, fgsm, pgd, random, toy, each once"):
        fv.local_accuracy(net, x, y, directions="spectral")
    told = data_of(v.view())["norms"]["l2"]["attacks"]
    assert [(one["name"], one["words"]) for one in told][1] == ("toy", WORDS["short"])


@pytest.mark.parametrize(
    "table", [METHODS, ESTIMATORS, RUNGS, ATTACKS], ids=["methods", "estimators", "bounds", "attacks"]
)
def test_every_row_says_what_it_is(table):
    for name, way in table.items():
        assert name == way.name
        assert way.needs, name
        assert way.short, name
        assert way.guarantee in ("exact", "interval", "upper", "lower", "statistical"), name
        assert way.sees in ("answers", "slopes", "weights"), name
