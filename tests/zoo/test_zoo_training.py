"""The recipes: what each loss is, and that adversarial training keeps the Fisher information down."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import cross_entropy

import fimviz as fv
from fimviz.zoo.models import MLP, VGG
from fimviz.zoo.recipes import RECIPES, SMOOTHNESS, attack, fit, reproducible
from fimviz.zoo.train import main, train
from tests.benchmarks import training as study

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def batch():
    images, labels = fv.zoo.digits("train")
    return images[:40], labels[:40]


def test_trades_is_cross_entropy_and_kl_to_the_attack(batch):
    """Against its definition in float64, on a net without statistics; without a budget it is cross-entropy alone."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    images, labels = batch
    with reproducible(3):
        loss = RECIPES["trades"](net, images, labels, 0.1)
    with reproducible(3):
        moved = attack(net, images, net(images).softmax(1).detach(), epsilon=0.1, steps=5)
    log_p, log_q = (net(x).double().log_softmax(1) for x in (images, moved))
    kl = (log_p.exp() * (log_p - log_q)).sum(1)
    expected = -log_p.gather(1, labels[:, None]).mean() + SMOOTHNESS * kl.mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    assert RECIPES["trades"](net, images, labels, 0.0).item() == pytest.approx(
        cross_entropy(net(images), labels).item(), rel=1e-6
    )
    random = images + 0.1 * torch.rand_like(images).sub(0.5).sign()
    far = (log_p.exp() * (log_p - net(random.clamp(0, 1)).double().log_softmax(1))).sum(1)
    assert kl.mean() > 2 * far.mean(), "the attack finds what chance does not"
    gradients = torch.autograd.grad(loss, list(net.parameters()))
    reference = torch.autograd.grad(expected, list(net.parameters()))
    for mine, true in zip(gradients, reference, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-4, atol=1e-6)


def test_madry_sees_attacked_images_alone(batch):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    images, labels = batch
    with reproducible(3):
        loss = RECIPES["madry"](net, images, labels, 0.1)
    with reproducible(3):
        moved = attack(net, images, labels, epsilon=0.1, steps=5)
    assert loss.item() == pytest.approx(cross_entropy(net(moved), labels).item(), rel=1e-6)
    assert loss > RECIPES["standard"](net, images, labels, 0.1)


def test_adversarial_training_keeps_the_fisher_information_down():
    """The paper's curves in small: mean ‖F‖_F of standard training lies above, at the same accuracy or a better one."""
    images, labels = fv.zoo.digits()
    histories = {}
    for recipe in RECIPES:
        monitors = []

        def watch(net, recipe=recipe, monitors=monitors):
            monitors.append(fv.FisherMonitor(net, images[:100], labels[:100], every=63, name=recipe))
            return monitors[0]

        net = fit(MLP, recipe, seed=0, epochs=9, warmup=0, watch=watch)
        assert not net.training
        histories[recipe] = monitors[0].history.frame
        assert histories[recipe].step.tolist() == [0, 63, 126, 189]
    last = {recipe: frame.iloc[-1] for recipe, frame in histories.items()}
    assert all(row.accuracy > 0.85 for row in last.values())
    assert last["standard"].mean_frobenius > 2 * last["madry"].mean_frobenius
    assert last["standard"].mean_frobenius > 2 * last["trades"].mean_frobenius


def test_watching_changes_no_bit():
    images, labels = fv.zoo.digits()
    plain = fit(lambda: VGG(4), "standard", epochs=1)
    watched = fit(
        lambda: VGG(4), "standard", epochs=1, watch=lambda net: fv.FisherMonitor(net, images[:8], labels[:8], every=5)
    )
    assert all(torch.equal(a, watched.state_dict()[key]) for key, a in plain.state_dict().items())


def test_unknown_recipe_names_the_nearest():
    with pytest.raises(ValueError, match="did you mean 'trades'"):
        fit(VGG, "trade")


def test_linear_networks_are_linear():
    """VGG without ReLU is linear in its input with average pooling, and only there."""
    torch.manual_seed(0)
    x, y = torch.rand(2, 5, 1, 8, 8, dtype=torch.float64)

    def bend(net):
        net = net.double().eval()
        return (net(x) + net(y) - 2 * net((x + y) / 2)).abs().max().item()

    assert bend(VGG(4, activation=nn.Identity, pool=nn.AvgPool2d)) < 1e-12
    assert bend(VGG(4, activation=nn.Identity)) > 1e-4
    assert list(VGG(4).state_dict()) == list(VGG(4, activation=nn.Identity).state_dict())


def test_command_line_trains_by_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr("fimviz.zoo.train.train", lambda name, **options: train(name, epochs=1, **options))
    main(["digits-mlp", "--recipe", "madry", "--seed", "1", "--out", str(tmp_path)])
    assert [file.name for file in tmp_path.iterdir()] == ["digits-mlp-madry-1.safetensors"]
    expected = train("digits-mlp", recipe="madry", seed=1, epochs=1).state_dict()
    stored = load_file(tmp_path / "digits-mlp-madry-1.safetensors")
    assert all(torch.equal(stored[key], value) for key, value in expected.items())
    for wrong in (["--recipe", "madry"], ["digits-mlp-robust", "--recipe", "trades", "--out", "x"], ["--seed", "1"]):
        with pytest.raises(SystemExit):
            main(wrong)
    assert "the networks of the zoo have seed 0" in capsys.readouterr().err


def test_stored_study_says_what_its_page_says():
    """In every seed both adversarial curves lie below the standard one; the page repeats the stored tables."""
    curves, samples, capacity = (
        pd.read_csv(DOCS / f"{name}.csv", comment="#") for name in ("training-curves", "robust-samples", "capacity")
    )
    page = (DOCS / "training.md").read_text(encoding="utf-8")
    for recipe in ("madry", "trades"):
        found = study.below(curves, recipe)
        assert [(share, epochs) for share, epochs, _ in found] == [(19, 19)] * 3
        assert all(last > 2 for *_, last in found)
        assert ", ".join(f"{last:.2g}" for *_, last in found) in page
    assert study.told(samples) in page
    assert study.ordered(capacity, study.ACCURACIES) in page
    assert study.ordered(capacity, study.PARTS) in page
    assert (samples.low > 0.5).all()


def test_rank_of_two_groups_in_closed_form():
    auc, low, high, p = study.ranked(np.array([3.0, 4.0, 5.0]), np.array([1.0, 2.0]), resamples=50)
    assert (auc, low, high) == (1, 1, 1)
    assert p == pytest.approx(2 / 10)  # one of C(5, 2) orders, and its mirror image
    assert study.ranked(np.array([1.0, 3.0]), np.array([2.0]), resamples=5)[0] == 0.5
    assert np.isnan(study.ranked(np.array([]), np.array([2.0]))).all()
