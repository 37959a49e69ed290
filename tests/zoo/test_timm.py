"""timm's classifiers: geometry and scale against its own transform, weights through its own loading code, offline."""

import sys

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config
from torch import nn

import fimviz as fv

SIZES = (300, 200), (120, 161), (90, 300), (160, 160)


def photo(size, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).convert(mode)


def made(name="test_resnet", **config):
    torch.manual_seed(0)
    return timm.create_model(name, pretrained_cfg_overlay=config).eval()


@pytest.fixture
def unreachable(tmp_path, monkeypatch):
    """A hub that refuses at once, and an empty cache."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("test_resnet", {}),
        ("test_vit", {}),
        ("test_resnet", {"crop_pct": 1.0, "interpolation": "bilinear"}),
        ("test_resnet", {"crop_mode": "squash", "crop_pct": 0.9}),
        ("test_resnet", {"crop_mode": "border"}),
        ("test_resnet", {"input_size": (3, 96, 128)}),
    ],
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_prepared_pictures_give_the_logits_of_timms_own_transform(name, config, mode):
    model = made(name, **config)
    net = fv.from_timm(model)
    own = create_transform(**resolve_model_data_config(model), is_training=False)
    for size in SIZES:
        image = photo(size, mode)
        expected = own(image.convert("RGB"))[None]
        x = net.prepare(image)
        assert torch.allclose(net.normalised(x.double()).float(), expected, atol=1e-6)
        assert torch.allclose(net(x), model(expected).log_softmax(1).detach(), atol=1e-5)
    assert net.prepare.size == tuple(model.pretrained_cfg["input_size"][1:])
    assert torch.equal(net.prepare(x), x)


@pytest.mark.filterwarnings("ignore:.*is transparent in places")
def test_pictures_of_every_kind_are_prepared(tmp_path):
    net = fv.from_timm("test_resnet", pretrained=False)
    image = photo((200, 150))
    image.save(tmp_path / "a.png")
    clear = image.copy()
    clear.putalpha(100)
    first = net.prepare(image)
    for form in (tmp_path / "a.png", [str(tmp_path / "a.png")], clear, np.asarray(image)[None]):
        assert torch.allclose(net.prepare(form), first, atol=0.02)
    assert fv.spectrum(net, [tmp_path / "a.png"], k=1, verify=False, tolerance=1e-2).images.shape == first.shape
    grey = fv.from_timm(timm.create_model("test_resnet", in_chans=1, num_classes=3))
    assert grey.prepare([image, photo((30, 60), "L")]).shape == (2, 1, 160, 160)
    assert grey(grey.prepare(image)).shape == (1, 3)


def test_a_border_keeps_its_colour_for_floats_too():
    net = fv.from_timm(made(crop_mode="border"))
    planes = torch.from_numpy(np.array(photo((90, 300)))).permute(2, 0, 1)
    assert torch.allclose(net.prepare(planes / 255), net.prepare(photo((90, 300))), atol=0.01)


def test_random_weights_leave_the_random_stream_and_give_classes():
    state = torch.get_rng_state()
    net = fv.from_timm("test_vit", pretrained=False)
    assert torch.equal(state, torch.get_rng_state())
    assert net.classes[207] == "golden retriever"
    assert not net.model.training
    assert fv.from_timm(made(), classes=map(str, range(1000))).classes[7] == "7"
    many = timm.create_model("test_resnet", num_classes=11821)
    assert fv.from_timm(many).classes[:2] == ["benthos", "cell"]
    named = fv.from_timm(
        timm.create_model(
            "test_resnet",
            num_classes=2,
            pretrained_cfg_overlay={"label_names": ("n1", "n2"), "label_descriptions": {"n1": "cat"}},
        )
    )
    assert named.classes == ["cat", "n2"]
    several = fv.from_timm(timm.create_model("test_resnet", num_classes=5), likelihood="bernoulli", precision="float32")
    assert several.precision == "float32"
    assert several(torch.rand(1, 3, 160, 160)).shape == (1, 5)


def test_a_model_stays_as_it_came_and_keeps_its_own_size():
    model = timm.create_model("test_vit", img_size=96, num_classes=3)
    model.train()
    net = fv.from_timm(model)
    assert net.model is model
    assert net.prepare(photo((300, 200))).shape == (1, 3, 96, 96)
    assert net(net.prepare(photo((300, 200)))).shape == (1, 3)
    assert model.training
    assert fv.from_timm(nn.DataParallel(model)).prepare.size == (96, 96)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("count", [1000, 4])
def test_a_file_comes_through_timms_own_loading_code(tmp_path, suffix, count):
    from safetensors.torch import save_file

    torch.manual_seed(1)
    model = timm.create_model("test_resnet", num_classes=count)
    file = tmp_path / f"own{suffix}"
    save = {".pth": lambda state, path: torch.save({"state_dict": state}, path), ".safetensors": save_file}[suffix]
    save(model.state_dict(), file)
    net = fv.from_timm("test_resnet.r160_in1k", pretrained=file)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in net.model.state_dict().items())
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, count)
    assert len(net.classes) == count
    with pytest.raises(ValueError, match=r"own.* holds weights of another architecture than test_vit: "):
        fv.from_timm("test_vit", pretrained=file)


def test_a_folder_of_timm_is_read(tmp_path):
    from timm.models import save_for_hf

    model = timm.create_model("test_resnet", num_classes=3)
    save_for_hf(
        model, tmp_path, model_config={"num_classes": 3, "label_names": ["a", "b", "c"]}, safe_serialization=True
    )
    net = fv.from_timm(f"local-dir:{tmp_path}")
    assert net.classes == ["a", "b", "c"]
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in net.model.state_dict().items())


class Trap:
    def __reduce__(self):
        return print, ("run",)


def test_nothing_is_unpickled_but_weights(tmp_path, capsys):
    torch.save({"state_dict": Trap()}, tmp_path / "trap.pth")
    with pytest.raises(ValueError, match=r"trap.pth' holds no state dictionary that can be read: weights_only"):
        fv.from_timm("test_resnet", pretrained=tmp_path / "trap.pth")
    assert "run" not in capsys.readouterr().out


def test_weights_that_cannot_be_fetched_are_named_at_once(unreachable):
    with pytest.raises(
        ConnectionError,
        match=r"timm's test_resnet cannot be fetched here \(http://127.0.0.1:9 cannot be reached: .*run it",
    ):
        fv.from_timm("test_resnet")
    with pytest.raises(ConnectionError, match="timm's hf-hub:timm/nonesuch cannot be fetched"):
        fv.from_timm("hf-hub:timm/nonesuch", pretrained=False)
    assert unreachable.HF_HUB_OFFLINE is False


def test_cached_weights_are_enough_without_a_network(unreachable, tmp_path):
    from safetensors.torch import save_file

    model = made()
    folder = tmp_path / "hub" / "models--timm--test_resnet.r160_in1k"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("a" * 40)
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    save_file(model.state_dict(), folder / "snapshots" / ("a" * 40) / "model.safetensors")
    net = fv.from_timm("test_resnet")
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in net.model.state_dict().items())


def test_what_is_wrong_is_said(tmp_path, monkeypatch):
    (tmp_path / "text.pth").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pth")
    for given, options, error, said in (
        ("resnet-18", {}, ValueError, "timm has no model 'resnet-18': did you mean resnet18"),
        ("timm/resnet18", {}, ValueError, "no model 'timm/resnet18': 'hf-hub:timm/resnet18' for a repository"),
        (
            "test_resnet",
            {"pretrained": "nowhere.pth"},
            FileNotFoundError,
            "'nowhere.pth', expected True, False or a file",
        ),
        ("test_resnet", {"pretrained": tmp_path / "text.pth"}, ValueError, "holds no state dictionary"),
        ("test_resnet", {"pretrained": tmp_path / "list.pth"}, ValueError, "holds no state dictionary"),
        (nn.Linear(3, 2), {}, TypeError, "model is a Linear, expected a name or a model that timm made"),
        (timm.create_model("test_resnet", num_classes=0), {}, ValueError, "has num_classes=0"),
        (made(), {"pretrained": "x.pth"}, TypeError, "'x.pth' beside a model"),
    ):
        with pytest.raises(error, match=said):
            fv.from_timm(given, **options)
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(ModuleNotFoundError, match="from_timm needs timm: pip install timm"):
        fv.from_timm("resnet18")
