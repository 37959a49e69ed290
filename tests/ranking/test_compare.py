"""`compare_models`: rows, rank correlations, what has no value, and errors of one sentence."""

import base64
import json
import math
import zlib

import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.ranking import compare_models
from fimviz.ranking.comparison import _correlation, _median_interval
from fimviz.ranking.numbers import _fitted_temperature, model_numbers
from tests.interrupt import interrupted_at

NAMES = ("mlp", "mlp-robust", "vgg", "vgg-robust", "resnet", "resnet-robust")


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    return images[:64], labels[:64]


@pytest.fixture(scope="module")
def comparison(digits):
    nets = {name: fv.zoo.load(f"digits-{name}") for name in NAMES}
    return compare_models(nets, *digits, local_images=4, attack_images=24, attack_targets=2, attack_steps=15)


def test_a_row_repeats_what_the_parts_say(comparison, digits):
    from fimviz.bounds import network_bound

    images, labels = digits
    frame = comparison.frame.set_index("model")
    assert list(frame.index) == list(NAMES)
    for name in ("mlp", "resnet-robust"):
        net, row = fv.zoo.load(f"digits-{name}"), frame.loc[name]
        s = fv.spectrum(net, images, labels=labels)
        assert row.spectral_norm == pytest.approx(float(s.spectral_norm.quantile(0.5)))
        assert row.mean_spectral_norm == pytest.approx(float(s.spectral_norm.mean()))
        assert row.trace == pytest.approx(float(s.trace.quantile(0.5)))
        assert row.accuracy == pytest.approx(float(s.correct.double().mean()))
        assert row.confidence == pytest.approx(float(s.confidence.mean()))
        bound = network_bound(net, images)
        spread = torch.cdist(bound.weight, bound.weight).max()
        closed = math.log10(0.25) + 2 * (math.log10(spread) + bound.log10_features)
        assert row.weights_only == pytest.approx(closed, abs=1e-6)
        assert row.at_images <= row.weights_only + 1e-9
        assert row.temperature == 1
    assert (frame.missing == "").all()


def test_formulas_bound_and_attacks_stay_outside_the_certificate(comparison):
    for m in comparison.models.values():
        assert (m.spectral_norm.log10()[: len(m.at_images)] <= m.at_images + 1e-6).all()
        right = m.right[: len(m.smallest_attack)]
        assert (m.smallest_attack > m.certified_radius[: len(m.smallest_attack)])[right].all()
        assert (m.smallest_attack[~right] == 0).all()
        assert (m.certified_radius[~m.right] == 0).all()


def test_a_number_that_errs_on_many_pairs_is_not_said_to_rank():
    """Twelve models: in order but for neighbours, and with 18 of 66 pairs the wrong way round."""
    attacks = [1 / (1 + i) for i in range(12)]  # the smallest attack falls as fragility rises
    near = _correlation("mean_spectral_norm", [2, 1, 4, 3, 6, 5, 7, 8, 9, 10, 11, 12], attacks)
    assert near.verdict == "ranks models like these, but for 3 of 66 pairs here (5%)"
    far = _correlation("mean_spectral_norm", [4, 3, 2, 1, 8, 7, 6, 5, 12, 11, 10, 9], attacks)
    assert (far.p_value <= 0.05, far.low > 0, far.discordant) == (True, True, 18)
    assert far.verdict == "leans the right way, but 18 of 66 pairs here (27%) are the wrong way round"
    assert _correlation("mean_spectral_norm", list(range(12)), attacks).verdict == "ranks models like these"


def test_the_formula_does_not_rank_the_zoo_and_says_so(comparison):
    ranks = comparison.correlations.set_index("column")
    formula = ranks.loc["weights_only"]
    assert formula.verdict == "not shown to rank models"
    assert formula.low < 0 < formula.high
    assert formula.pairs == 15
    assert formula.discordant == len(comparison.inversions()) >= 5
    assert ranks.loc["mean_spectral_norm"].spearman > 0.8
    assert ranks.loc["temperature"].verdict == "the same for all models"
    worst = comparison.inversions().iloc[0]
    frame = comparison.frame.set_index("model")
    first, second = frame.loc[worst.said_fragile], frame.loc[worst.said_robust]
    assert worst.said == pytest.approx(10 ** (first.weights_only - second.weights_only))
    assert worst.attack_ratio == pytest.approx(first.smallest_attack / second.smallest_attack)
    assert comparison.summary.startswith("The formula from the weights alone puts ")


def test_some_of_the_models(comparison):
    some = comparison.take(["vgg", "mlp"])
    assert some.frame.model.tolist() == ["vgg", "mlp"]
    assert some.frame.smallest_attack[1] == comparison.frame.smallest_attack[0]
    assert some.correlations.spearman.isna().all()
    with pytest.raises(ValueError, match="no model 'vit'"):
        comparison.take(["mlp", "vit"])
    with pytest.raises(ValueError, match="at least two"):
        comparison.take(["mlp"])


def test_success_counts_the_right_images_only(comparison):
    for name, m in comparison.models.items():
        attacks = m.smallest_attack[m.right[: len(m.smallest_attack)]]
        success = comparison.frame.set_index("model").attack_success[name]
        row = comparison.frame.set_index("model").loc[name]
        assert attacks.min() <= row.attack_low < row.smallest_attack < row.attack_high <= attacks.max()
        assert success == pytest.approx(float((attacks <= comparison.budget).double().mean()))


def test_view_and_figure(comparison, tmp_path):
    figure = comparison.view()
    raw = zlib.decompress(base64.b64decode(figure.state["payload"]))
    data = json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")])
    assert [m["name"] for m in data["models"]] == list(NAMES)
    assert data["models"][0]["smallest_attack"] == comparison.frame.smallest_attack[0]
    assert "Median λ₁ at matched confidence and mean λ₁ come equally close to the order of the attacks" in data["title"]
    html = comparison.save(tmp_path / "c.html").read_text()
    assert "https://" not in html
    assert repr(comparison) == f"ModelComparison(6 models on 64 images: {', '.join(NAMES)})"
    widget = comparison.widget()
    widget.column = "trace"
    with pytest.raises(Exception, match="column"):
        widget.column = "attack_success"
    plotted = comparison.plot()
    assert len(plotted.data) == 2
    assert list(plotted.data[0].text) == list(NAMES)


def test_temperature_is_matched_out(digits):
    images, labels = digits
    model = fv.zoo.load("digits-mlp").model
    nets = {t: fv.Classifier(model, temperature=t) for t in (0.5, 1.0, 2.0)}
    options = {"local_images": 2, "attack_images": 8, "attack_targets": 1, "attack_steps": 3}
    rows = compare_models({str(t): net for t, net in nets.items()}, images, labels, **options).frame
    assert rows.temperature.tolist() == [0.5, 1.0, 2.0]
    assert rows.fitted_temperature.std() < 1e-9
    assert rows.matched_spectral_norm.tolist() == pytest.approx([rows.matched_spectral_norm[0]] * 3, rel=1e-6)
    assert rows.certified_radius.tolist() == pytest.approx([rows.certified_radius[0]] * 3, rel=1e-5)
    assert rows.spectral_norm[0] != pytest.approx(rows.spectral_norm[2], rel=0.1)
    assert rows.weights_only[0] - rows.weights_only[2] == pytest.approx(4 * math.log10(2))


def test_the_fitted_temperature_is_the_likeliest():
    z = 3 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.distributions.Categorical(logits=z / 1.7).sample()
    fitted = _fitted_temperature(z, labels)

    def nll(t):
        return nn.functional.cross_entropy(z / t, labels)

    assert nll(fitted) < min(nll(0.98 * fitted), nll(1.02 * fitted))
    assert _fitted_temperature(7 * z, labels) == pytest.approx(7 * fitted)
    assert "every label is predicted" in _fitted_temperature(z, z.argmax(1))
    assert "no likelier than by chance" in _fitted_temperature(z, z.argmin(1))


def test_the_interval_of_a_median_covers():
    values = torch.randn(2000, 24, generator=torch.Generator().manual_seed(0)).exp()
    ends = [_median_interval(v) for v in values]
    assert 0.95 <= sum(low <= 1 <= high for low, high in ends) / 2000 < 0.99
    assert _median_interval(values[0, :3]) == (float(values[0, :3].min()), float(values[0, :3].max()))


class Undecided(nn.Module):
    """No graph shows a decision on a tensor's values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(64, 10)

    def forward(self, x):
        return self.layer(x.flatten(1)) if x.mean() > -1 else x


def test_a_model_without_a_closed_form_keeps_its_row(digits, tmp_path):
    torch.manual_seed(0)
    images, labels = digits[0][:12], digits[1][:12]
    nets = {"<b>undecided</b>": Undecided(), "mlp": fv.zoo.load("digits-mlp")}
    c = compare_models(nets, images, labels, local_images=1, attack_targets=1, attack_steps=3)
    row = c.frame.iloc[0]
    assert math.isnan(row.weights_only)
    assert math.isnan(row.certified_radius)
    assert row.spectral_norm > 0
    assert row.missing.count("cannot trace Undecided") >= 1
    assert all(word in row.missing for word in ("log₁₀ L5", "log₁₀ L4", "certified"))
    assert c.correlations.set_index("column").loc["weights_only"].models == 1
    assert "is known for 1 of 2 models" in c.summary
    assert "Two models are always in order or in reverse" in c.summary
    page = c.save(tmp_path / "c.html").read_text()
    assert "<b>undecided" not in page
    assert len(c.plot().data) == 2


def test_the_four_families_at_their_own_sizes():
    from torchvision.models import DenseNet, ResNet, VisionTransformer
    from torchvision.models.resnet import BasicBlock
    from torchvision.models.vgg import VGG, make_layers

    torch.manual_seed(0)
    vgg = VGG(make_layers([8, "M", 16, "M"], batch_norm=True), num_classes=10, init_weights=False)
    vgg.classifier = nn.Linear(16 * 49, 10)
    vit = VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=10)
    nn.init.normal_(vit.heads.head.weight)
    nets = {
        "vgg": vgg,
        "resnet": ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10),
        "densenet": DenseNet(8, (2, 2), 8, num_classes=10),
        "vit": vit,
    }
    images = {name: torch.rand(6, 3, size, size) for name, size in zip(nets, (32, 32, 32, 16), strict=True)}
    labels = torch.arange(6)
    options = {"local_images": 1, "attack_targets": 1, "attack_steps": 2}
    c = compare_models(nets, images, labels, **options)
    assert c.frame.weights_only.notna().all()
    assert (c.frame.at_images >= c.frame.spectral_norm.map(math.log10)).all()
    assert "images of different sizes (3×16×16, 3×32×32)" in " ".join(_notes(c))
    with pytest.raises(ValueError, match="no entry for 'resnet'"):
        compare_models(nets, {"vgg": images["vgg"]}, labels)
    with pytest.raises(ValueError, match="the same pictures"):
        compare_models(nets, {**images, "vit": images["vit"][:3]}, labels)


def _notes(c):
    from fimviz.views.ranking.view import _notes

    return _notes(c)


def test_a_model_that_is_never_right_has_no_attack(digits):
    images, labels = digits[0][:6], digits[1][:6]
    wrong = nn.Sequential(nn.Flatten(), nn.Linear(64, 11))
    wrong[1].bias.data[10] = 100.0
    c = compare_models({"wrong": wrong, "other": wrong}, images, labels, attack_steps=1)
    assert c.frame.smallest_attack.isna().all()
    assert "the model gets no attacked image right" in c.frame.missing[0]
    assert c.view().html()


def test_an_interrupt_keeps_the_complete_models(digits, monkeypatch):
    images, labels = digits[0][:4], digits[1][:4]
    nets = {name: fv.zoo.load("digits-mlp") for name in "abc"}
    monkeypatch.setattr("fimviz.ranking.compare.model_numbers", interrupted_at(3, model_numbers))
    with pytest.warns(UserWarning, match="holds 2 of 3 models"):
        c = compare_models(nets, images, labels, attack_steps=1)
    assert list(c.models) == ["a", "b"]


def test_an_interrupt_after_one_model_keeps_it_and_shows_it(digits, monkeypatch):
    images, labels = digits[0][:4], digits[1][:4]
    monkeypatch.setattr("fimviz.ranking.compare.model_numbers", interrupted_at(2, model_numbers))
    with pytest.warns(UserWarning, match="holds 1 of 2 models"):
        c = compare_models({name: fv.zoo.load("digits-mlp") for name in "ab"}, images, labels, attack_steps=1)
    assert list(c.models) == list(c.frame.model) == ["a"]
    assert c.summary == "One model has no rank among others."
    assert "no other to compare it with" in c.view().html()
    assert len(c.plot().data) == 2
    assert len(c.inversions()) == 0


def test_errors_are_one_clear_sentence(digits):
    images, labels = digits[0][:4], digits[1][:4]
    net = fv.zoo.load("digits-mlp")
    two = {"a": net, "b": net}
    with pytest.raises(TypeError, match="models is a list, expected a dictionary"):
        compare_models([net, net], images, labels)
    with pytest.raises(ValueError, match="at least two"):
        compare_models({"a": net}, images, labels)
    with pytest.raises(TypeError, match="did you mean budget"):
        compare_models(two, images, labels, budgets=1)
    with pytest.raises(ValueError, match="budget is 0"):
        compare_models(two, images, labels, budget=0)
    with pytest.raises(ValueError, match=r"expected one of auto, exact, lanczos$"):
        compare_models(two, images, labels, method="power")
    with pytest.raises(ValueError, match="labels are") as caught:
        compare_models(two, images, labels[:2])
    assert "This is of the model 'a'." in caught.value.__notes__
    binary = fv.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), likelihood="bernoulli")
    with pytest.raises(ValueError, match="several yes/no labels"):
        compare_models({"a": net, "b": binary}, images, labels, attack_steps=1)
    box = fv.BlackBox(lambda x: x.reshape(len(x), -1)[:, :10])
    with pytest.raises(TypeError, match="BlackBox"):
        compare_models({"a": box, "b": net}, images, labels)
    with pytest.raises(ValueError, match="expected one that claims to rank"):
        compare_models(two, images, labels, attack_steps=1).inversions("accuracy")
