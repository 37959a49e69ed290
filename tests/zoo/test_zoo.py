"""The embedded default: the split never moves, the weights are what the card says they are."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

import fimviz as fv
from fimviz.zoo.lipschitz import SCALE
from fimviz.zoo.models import ARCHITECTURES
from fimviz.zoo.train import EPOCHS, EPSILON, TEST_STEPS, attack, evaluate, main, table, train

ZOO = Path(fv.zoo.__file__).parent
CARD = json.loads((ZOO / "card.json").read_text())
FILES = sorted((ZOO / "weights").iterdir())


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, float]]:
    return {name: evaluate(fv.zoo.load(name)) for name in fv.zoo.names()}


def rows(images: Tensor) -> list[bytes]:
    return [image.numpy().tobytes() for image in images]


def test_split_is_fixed() -> None:
    train_split, test_split = fv.zoo.digits("train"), fv.zoo.digits()
    assert (len(train_split.images), len(test_split.images)) == (1297, 500)
    labels = torch.cat([train_split.labels, test_split.labels]).to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(labels).hexdigest()[:16] == "1304e7b4b6ea9329"
    ink = (16 * torch.cat([train_split.images, test_split.images])).to(torch.uint8).numpy().tobytes()
    assert hashlib.sha256(ink).hexdigest()[:16] == "89a8784e09b08030"


def test_split_is_disjoint_and_whole() -> None:
    from sklearn.datasets import load_digits

    parts = [rows(fv.zoo.digits(split).images) for split in ("train", "test")]
    whole = torch.tensor(load_digits().images / 16, dtype=torch.float32)
    assert sorted(parts[0] + parts[1]) == sorted(rows(whole))
    assert not set(parts[0]) & set(parts[1])


@pytest.mark.parametrize("split", ["train", "test"])
def test_digits_have_the_stated_form(split: str) -> None:
    images, labels = fv.zoo.digits(split)
    assert images.shape == (len(labels), 1, 8, 8)
    assert (images.dtype, labels.dtype) == (torch.float32, torch.int64)
    assert (images.min(), images.max()) == (0, 1)
    share = labels.bincount() / len(labels)
    assert (share - 0.1).abs().max() < 0.005


def test_unknown_split_says_what_is_valid() -> None:
    with pytest.raises(ValueError, match="split is 'validation', expected 'train' or 'test'"):
        fv.zoo.digits("validation")


@pytest.mark.parametrize("build", [fv.zoo.load, train])
@pytest.mark.parametrize(
    ("wrong", "right"),
    [("digits-resnt", "digits-resnet"), ("vit-robust", "digits-vit-robust"), ("mnist", "digits-"), (None, "digits-")],
)
def test_unknown_name_says_the_nearest(build, wrong: str, right: str) -> None:
    with pytest.raises(ValueError, match=f"no network {wrong!r}: did you mean '{right}"):
        build(wrong)


def test_names_files_and_card_agree() -> None:
    names = fv.zoo.names()
    assert len(names) == len(set(names)) == 11
    assert sorted(names) == sorted(file.stem for file in FILES)
    assert names == list(CARD["networks"])


def test_weights_are_small_and_safe() -> None:
    assert sum(file.stat().st_size for file in FILES) < 2_000_000
    for file in FILES:
        with safe_open(file, "pt") as weights:  # a pickle raises here
            tensors = {key: weights.get_tensor(key) for key in weights.keys()}  # noqa: SIM118
        assert all(t.dtype == torch.float32 and t.isfinite().all() for t in tensors.values() if t.is_floating_point())


def test_loading_is_offline_and_never_unpickles(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **options: object) -> None:
        raise AssertionError("loading used the network or a pickle")

    monkeypatch.setattr("socket.socket.connect", refuse)
    monkeypatch.setattr("torch.load", refuse)
    monkeypatch.setattr("pickle.load", refuse)
    monkeypatch.setattr("pickle.loads", refuse)
    for name in fv.zoo.names():
        fv.zoo.load(name)


def test_loading_leaves_the_random_stream_alone() -> None:
    before = torch.get_rng_state()
    fv.zoo.load("digits-vit")
    evaluate(fv.zoo.load("digits-mlp"))
    assert torch.equal(torch.get_rng_state(), before)


def test_import_stays_light() -> None:
    heavy = {"sklearn", "safetensors", "captum", "torchvision"}
    code = f"import sys, fimviz.zoo; print(*({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("name", fv.zoo.names())
def test_network_is_ready_for_use(name: str) -> None:
    net = fv.zoo.load(name)
    images, _ = fv.zoo.digits()
    log_probs = net(images[:3])
    assert isinstance(net, fv.Classifier)
    assert not net.model.training
    assert net.classes == list("0123456789")
    assert log_probs.shape == (3, 10)
    torch.testing.assert_close(log_probs.exp().sum(1), torch.ones(3))
    assert sum(p.numel() for p in net.model.parameters()) == CARD["networks"][name]["parameters"] < 45_000


@pytest.mark.parametrize("name", fv.zoo.names())
def test_torch_fx_traces_it(name: str) -> None:
    model = fv.zoo.load(name).model
    traced = torch.fx.symbolic_trace(model)
    for n in (1, 7):
        x = fv.zoo.digits().images[:n]
        assert torch.equal(traced(x), model(x))


@pytest.mark.parametrize("name", fv.zoo.names())
def test_card_tells_the_truth(name: str, measured: dict[str, dict[str, float]]) -> None:
    row = CARD["networks"][name]
    assert measured[name]["clean_accuracy"] == pytest.approx(row["clean_accuracy"], abs=0.01)
    assert measured[name]["pgd_accuracy"] == pytest.approx(row["pgd_accuracy"], abs=0.03)
    assert row["epochs"] == EPOCHS
    assert row["clean_accuracy"] >= (0.93 if name.endswith("-robust") else 0.96)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_adversarial_training_pays(name: str, measured: dict[str, dict[str, float]]) -> None:
    assert measured[f"{name}-robust"]["pgd_accuracy"] > measured[name]["pgd_accuracy"] + 0.25


def test_lipschitz_constant_is_built_in() -> None:
    """Orthogonal but for the logits' scale, so that features keep every length, and L5 is within 3 times of λ₁."""
    net, (images, _) = fv.zoo.load("digits-lipschitz"), fv.zoo.digits()
    *hidden, last = (layer.weight.detach() for layer in net.model if isinstance(layer, torch.nn.Linear))
    for weight in (*hidden, last / SCALE):
        torch.testing.assert_close(weight @ weight.mT, torch.eye(len(weight)), atol=1e-5, rtol=0)
    found = fv.compare_bounds(net, images[:32], methods=["exact", "L5"]).methods
    assert (found["L5"].value > found["exact"].value).all()
    assert (found["L5"].value < 3 * found["exact"].value.max()).all()
    r = fv.certified_radius(net, images[:32], method="norms", steps=10)
    assert r.holds.all()
    assert (r.attack / r.radius).median() < 1.3, "the closed form is not vacuous"


def test_card_for_people_says_the_same() -> None:
    text = (ZOO / "CARD.md").read_text()
    assert table(CARD) in text
    assert (CARD["attack"]["epsilon"], CARD["attack"]["steps"]) == (EPSILON, TEST_STEPS)
    assert f"L∞ budget of {EPSILON} " in text
    assert f"{TEST_STEPS} steps of {2.5 * EPSILON / TEST_STEPS:g} " in text
    assert f"{EPOCHS} epochs" in text


def test_attack_stays_in_its_ball() -> None:
    images, labels = fv.zoo.digits()
    attacked = attack(fv.zoo.load("digits-mlp"), images[:50], labels[:50], epsilon=0.1, steps=5)
    assert (attacked - images[:50]).abs().max() <= 0.1 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


@pytest.mark.parametrize("name", ["digits-mlp", "digits-mlp-robust", "digits-lipschitz"])
def test_training_is_reproducible(name: str) -> None:
    threads, stream = torch.get_num_threads(), torch.get_rng_state()
    first, again, other = (train(name, seed=seed, epochs=1).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["1.weight"], other["1.weight"])
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), stream)


def test_command_line_writes_a_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fimviz.zoo.train.train", lambda name, **options: train(name, epochs=1, **options))
    with pytest.raises(ValueError, match="did you mean"):
        main(["digits-vgg", "digits-mpl", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
    main(["digits-mlp-robust", "--out", str(tmp_path)])
    main(["digits-mlp", "--out", str(tmp_path)])
    card = json.loads((tmp_path / "card.json").read_text())
    assert list(card["networks"]) == ["digits-mlp", "digits-mlp-robust"]
    assert table(card) in (tmp_path / "CARD.md").read_text()
    assert {file.stem for file in (tmp_path / "weights").iterdir()} == set(card["networks"])
