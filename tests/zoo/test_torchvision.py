"""Torchvision's classifiers: geometry against its own transforms, weights through its own loading code, offline."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import models
from torchvision.models import ResNet18_Weights

import fimviz as fv


@pytest.fixture
def hub(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    return tmp_path / "torch" / "hub" / "checkpoints"


@pytest.fixture
def published(tmp_path, monkeypatch):
    """Random weights published, with their hash in the name, where torchvision would look for its own."""
    torch.manual_seed(0)
    model = models.resnet18()
    path = tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    named = path.rename(tmp_path / f"resnet18-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth")
    monkeypatch.setattr(ResNet18_Weights.IMAGENET1K_V1.value, "url", named.as_uri())
    return model.eval(), named


def photo(size=(60, 40), seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def test_prepare_is_the_weights_own_transform_up_to_the_normalisation():
    net = fv.from_torchvision("resnet18", weights=None)
    preset = ResNet18_Weights.DEFAULT.transforms()
    image = photo((300, 260))
    mean, std = (v.view(3, 1, 1) for v in (net.mean, net.std))
    assert torch.allclose((net.prepare(image)[0] - mean) / std, preset(image).double(), atol=1e-6)


def test_images_in_every_form_give_the_same_batch(tmp_path):
    net = fv.from_torchvision("mobilenet_v3_small", weights=None)
    image = photo()
    image.save(tmp_path / "a.png")
    array = np.asarray(image)
    planes = torch.tensor(array).permute(2, 0, 1)
    first = net.prepare(image)
    assert first.shape == (1, 3, 224, 224)
    assert torch.equal(net.prepare(tmp_path / "a.png"), first)
    for form in (array, array[None], planes, planes[None], [planes], planes / 255):
        assert torch.allclose(net.prepare(form), net.prepare(planes), atol=0.005)
    assert torch.equal(net.admit([tmp_path / "a.png"]), first)
    assert torch.allclose(fv.attacks.fgsm(net, [tmp_path / "a.png"], None, 0.01), first, atol=0.01001)
    many = net.prepare([image, tmp_path / "a.png", photo((30, 90))])
    assert many.shape == (3, 3, 224, 224)
    assert torch.equal(net.prepare(many), many)
    items = torch.utils.data.TensorDataset(torch.stack([planes, planes]), torch.tensor([0, 1]))
    assert len(net.prepare(items)) == 2
    assert net.prepare(Image.new("L", (50, 50), 255)).unique().tolist() == [1.0]
    for wrong, said in (
        (torch.randn(3, 50, 50), r"images\[0\] run from .*normalised already"), ([], "empty"),
        (torch.zeros(4, 50, 50), r"expected \(3"),
        (7, "images is a int"), (torch.zeros(3, 9, 9).long(), "uint8 or floats"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=said):
            net.prepare(wrong)
    with pytest.raises(FileNotFoundError, match="there is no image"):
        net.prepare("nowhere.png")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny"])
def test_random_weights_leave_the_random_stream_and_give_classes(name):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    net = fv.from_torchvision(name, weights=None)
    assert torch.equal(state, torch.get_rng_state())
    assert net.classes[207] == "golden retriever"
    assert fv.Classifier(net.model).prepare is None
    assert net(torch.rand(1, 3, 64, 64)).shape == (1, 1000)
    if name == "mobilenet_v3_small":
        s = fv.spectrum(net, torch.rand(1, 3, 64, 64), k=1, verify=False, tolerance=1e-2)
        assert s.method == "lanczos"
        assert s.spectral_norm.item() > 0


def test_vit_is_built_and_prepared():
    net = fv.from_torchvision("vit_b_16", weights=None, precision="float32", likelihood="bernoulli")
    assert (net.precision, net.likelihood.name) == ("float32", "bernoulli")
    assert net.prepare.size == (224, 224)
    assert len(net.prepare(photo())) == 1
    assert sum(p.numel() for p in net.model.parameters()) == 86_567_656


def test_published_weights_come_through_torch_hub_and_are_checked_there_and_in_the_cache(hub, published):
    model, named = published
    net = fv.from_torchvision("resnet18", weights="IMAGENET1K_V1")
    assert (hub / named.name).exists()
    x = torch.rand(1, 3, 64, 64)
    normed = (x - net.mean.view(3, 1, 1).float()) / net.std.view(3, 1, 1).float()
    assert torch.allclose(net(x).exp(), model(normed).softmax(1).detach(), atol=1e-5)
    named.unlink()
    assert fv.from_torchvision("resnet18").classes == net.classes  # from the cache now
    (hub / named.name).write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"is damaged: its hash .* Delete it"):
        fv.from_torchvision("resnet18")


def test_a_download_with_the_wrong_hash_is_refused(hub, published):
    _, named = published
    named.write_bytes(named.read_bytes() + b"x")
    with pytest.raises(ValueError, match="damaged"):
        fv.from_torchvision("resnet18")
    assert not (hub / named.name).exists()


def test_a_download_that_cannot_be_made_says_what_to_put_where(hub, published):
    _, named = published
    named.unlink()
    with pytest.raises(ConnectionError, match=f"download file:.*{named.name} on a machine .* put it at '{hub}"):
        fv.from_torchvision("resnet18")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_of_weights_may_have_other_classes_but_no_other_architecture(tmp_path, suffix):
    from safetensors.torch import save_file

    save = {".pth": lambda state, path: torch.save({"state_dict": state}, path), ".safetensors": save_file}[suffix]
    model = models.mobilenet_v3_small(num_classes=3)
    save(model.state_dict(), tmp_path / f"own{suffix}")
    net = fv.from_torchvision("mobilenet_v3_small", weights=tmp_path / f"own{suffix}", classes=["a", "b", "c"])
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in net.model.state_dict().items())
    assert net(torch.rand(2, 3, 64, 64)).shape == (2, 3)
    with pytest.raises(ValueError, match="weights of another architecture than resnet18: 122 of its 122"):
        fv.from_torchvision("resnet18", weights=tmp_path / f"own{suffix}")


def test_what_is_wrong_is_said(tmp_path):
    with pytest.raises(ValueError, match="did you mean resnet18"):
        fv.from_torchvision("resnet-18")
    with pytest.raises(TypeError, match=r"name is a Linear, expected .* goes into fv.Classifier\(model, mean="):
        fv.from_torchvision(torch.nn.Linear(3, 2))
    with pytest.raises(FileNotFoundError, match="expected one of IMAGENET1K_V1, DEFAULT, a file"):
        fv.from_torchvision("resnet18", weights="IMAGENET21K")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(ValueError, match="holds no state dictionary"):
        fv.from_torchvision("resnet18", weights=tmp_path / "list.pth")
