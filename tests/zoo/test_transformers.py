"""Image classifiers of transformers: geometry and scale against their processors, through their own loading code."""

import json
import sys

import numpy as np
import pytest
import torch
import transformers
from torch import nn
from torch.utils._device import _device_constructors
from transformers import (
    ConvNextImageProcessor,
    ResNetConfig,
    ResNetForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

import fimviz as fv
from tests.zoo.test_timm import photo, unreachable  # noqa: F401 - a fixture

SMALL = {"height": 32, "width": 32}
SIZES = (60, 40), (23, 31), (20, 90), (32, 32)


def resnet(labels=("cat", "dog", "owl"), **options):
    torch.manual_seed(0)
    config = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8], depths=[1, 1], id2label=dict(enumerate(labels)), **options
    )
    return ResNetForImageClassification(config).eval()


def vit(size=32):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=size, patch_size=8, num_labels=3, **sizes)).eval()


@pytest.fixture
def folder(tmp_path):
    """A classifier and its processor, as `save_pretrained` writes them."""
    model = resnet()
    model.save_pretrained(tmp_path / "net")
    ConvNextImageProcessor(size={"shortest_edge": 32}, crop_pct=0.9).save_pretrained(tmp_path / "net")
    return tmp_path / "net", model


@pytest.mark.parametrize("mode", ["RGB", "L"])
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("ViTImageProcessor", {"size": SMALL}),
        ("ViTImageProcessorPil", {"size": SMALL, "do_normalize": False}),
        ("ViTImageProcessor", {"do_resize": False, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.1, 0.2, 0.3]}),
        ("ViTImageProcessor", {"size": SMALL, "do_rescale": False, "do_normalize": False}),
        ("CLIPImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": SMALL}),
        ("CLIPImageProcessorPil", {"size": {"shortest_edge": 36}, "crop_size": {"height": 64, "width": 64}}),
        ("ConvNextImageProcessor", {"size": {"shortest_edge": 32}}),
        ("EfficientNetImageProcessor", {"size": SMALL, "rescale_offset": True, "rescale_factor": 1 / 127.5}),
        ("MobileViTImageProcessor", {"size": {"shortest_edge": 36}, "crop_size": SMALL}),
    ],
)
def test_prepared_pictures_give_the_logits_of_the_processor(kind, options, mode):
    processor, model = getattr(transformers, kind)(**options), resnet()
    net = fv.from_transformers(model, processor=processor)
    for size in SIZES:
        image = photo(size, mode)
        expected = processor(images=image.convert("RGB"), return_tensors="pt")["pixel_values"]
        x = net.prepare(image)
        assert x.min() >= 0
        assert x.max() <= 1
        seen = net.normalised(x.double())
        seen = seen.flip(1) if "MobileViT" in kind else seen
        scale = float(expected.abs().max())
        assert torch.allclose(seen.float(), expected.float(), atol=1e-6 * max(scale, 1))
        assert torch.allclose(net(x), model(expected.float()).logits.log_softmax(1).detach(), atol=2e-5)
        assert torch.allclose(net.prepare(x), x, atol=1e-6)
    fixed = options.get("do_resize", True)
    assert (net.prepare.size is not None) == fixed
    if fixed:
        assert len(net.prepare([photo(size) for size in SIZES])) == 4
    else:
        with pytest.raises(ValueError, match=r"images are of 31 × 23 and 32 × 32 and .* pixels once prepared"):
            net.prepare([photo(size) for size in SIZES])


@pytest.mark.filterwarnings("ignore:.*is transparent in places")
def test_pictures_of_every_kind_are_prepared(tmp_path):
    net = fv.from_transformers(vit(), processor=ViTImageProcessor(size=SMALL))
    image = photo((60, 50))
    image.save(tmp_path / "a.png")
    clear = image.copy()
    clear.putalpha(100)
    planes = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    first = net.prepare(image)
    for form in (tmp_path / "a.png", clear, np.asarray(image), planes, planes / 255, planes.double() / 255):
        assert torch.allclose(net.prepare(form), first, atol=0.02)
    s = fv.spectrum(net, [tmp_path / "a.png"], k=1)
    assert torch.equal(s.images, first)
    assert s.spectral_norm.item() > 0


def test_a_folder_comes_through_their_own_loading_code(folder):
    path, model = folder
    state = torch.get_rng_state()
    net = fv.from_transformers(path)
    assert torch.equal(state, torch.get_rng_state())
    assert net.classes == ["cat", "dog", "owl"]
    assert net.prepare.size == (32, 32)
    assert not net.model.training
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in net.model.state_dict().items())
    drawn = fv.from_transformers(str(path), pretrained=False, classes=["a", "b", "c"], precision="float32")
    assert drawn.precision == "float32"
    assert drawn.classes == ["a", "b", "c"]
    assert not torch.equal(*(next(n.parameters()) for n in (drawn.model, model)))
    loaded = ResNetForImageClassification.from_pretrained(path)
    loaded.train()
    again = fv.from_transformers(loaded)  # whose processor is where it came from
    assert again.prepare.size == (32, 32)
    assert again.model is loaded
    assert loaded.training


def test_default_devices_keep_all_their_functions(folder):
    _device_constructors.cache_clear()  # as if nothing had been made under a default device yet
    fv.from_transformers(folder[0])
    with torch.device("meta"):
        assert torch.linspace(0, 1, 3).device.type == "meta"


def test_older_weights_are_read_without_running_what_they_hold(folder, capsys):
    path, model = folder
    (path / "model.safetensors").unlink()
    torch.save(model.state_dict(), path / "pytorch_model.bin")
    net = fv.from_transformers(path)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in net.model.state_dict().items())
    from tests.zoo.test_timm import Trap

    torch.save({**model.state_dict(), "classifier.1.bias": Trap()}, path / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"the weights of .* cannot be read"):
        fv.from_transformers(path)
    assert "run" not in capsys.readouterr().out


def test_the_likelihood_follows_the_configuration():
    processor = ViTImageProcessor(size=SMALL)
    several = fv.from_transformers(resnet(problem_type="multi_label_classification"), processor=processor)
    assert several.likelihood.name == "bernoulli"
    assert fv.spectrum(several, torch.rand(1, 3, 32, 32)).spectral_norm.isfinite().all()
    for model in (resnet(problem_type="regression"), resnet(labels=["one"])):
        with pytest.raises(ValueError, match=r"describes a regression.*fv.Gaussian\(sigma"):
            fv.from_transformers(model, processor=processor)
        numbers = fv.from_transformers(model, processor=processor, likelihood=fv.Gaussian(sigma=0.1))
        assert len(numbers(torch.rand(1, 3, 32, 32))) == 1
    unnamed = fv.from_transformers(vit(), processor=processor)
    unnamed(torch.rand(1, 3, 32, 32))
    assert unnamed.classes == ["0", "1", "2"]


def test_files_that_cannot_be_fetched_are_named_at_once(unreachable, folder):  # noqa: F811
    said = r"owner/name cannot be fetched here \(http://127.0.0.1:9 cannot be reached: .*save_pretrained\(folder\)"
    with pytest.raises(ConnectionError, match=said):
        fv.from_transformers("owner/name")
    with pytest.raises(ConnectionError, match=said):
        fv.from_transformers(vit(), processor="owner/name")
    assert len(fv.from_transformers(folder[0]).classes) == 3  # a folder needs no hub
    assert unreachable.HF_HUB_OFFLINE is False


def test_what_is_wrong_is_said(folder, tmp_path, monkeypatch):
    path, model = folder
    fit = ViTImageProcessor(size=SMALL)

    class Grey(ViTImageProcessor):
        def __call__(self, images, **options):
            out = super().__call__(images, **options)
            out["pixel_values"] = out["pixel_values"].mean(1, keepdim=True).expand(-1, 3, -1, -1)
            return out

    class Text:
        def __call__(self, images, **options):
            return {"input_ids": torch.zeros(1, 3)}

    for given, options, error, said in (
        (tmp_path / "none", {}, FileNotFoundError, "there is no folder .*none"),
        ("./none", {}, FileNotFoundError, "there is no folder"),
        (nn.Linear(3, 2), {"processor": fit}, TypeError, "model is a Linear, expected a name, a folder or a model"),
        (vit(), {}, ValueError, "does not say where it came from.*give processor="),
        (vit(), {"processor": Grey(size=SMALL)}, ValueError, "what Grey does to colours is no normalisation"),
        (vit(), {"processor": Text()}, ValueError, "Text makes input_ids of a picture, expected pixel_values"),
        (path, {"pretrained": "yes"}, TypeError, "pretrained is 'yes', expected True or False"),
    ):
        with pytest.raises(error, match=said):
            fv.from_transformers(given, **options)

    model.resnet.save_pretrained(tmp_path / "bare")
    model.save_pretrained(tmp_path / "alone")
    with pytest.raises(FileNotFoundError, match="holds no image processor"):
        fv.from_transformers(tmp_path / "alone")
    with pytest.raises(ValueError, match=r"has no weights for classifier.1.bias, .* expected a trained classifier"):
        fv.from_transformers(tmp_path / "bare", processor=fit)
    (path / "model.safetensors").write_bytes(b"cut off")
    with pytest.raises(ValueError, match=r"the weights of .* cannot be read"):
        fv.from_transformers(path)
    config = transformers.BertConfig(hidden_size=8, num_attention_heads=1)
    config.save_pretrained(tmp_path / "bert")
    with pytest.raises(ValueError, match="bert is described by a BertConfig, expected an image classifier"):
        fv.from_transformers(tmp_path / "bert")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModuleNotFoundError, match="from_transformers needs transformers: pip install transformers"):
        fv.from_transformers(path)


def test_code_of_a_repository_is_not_run(folder):
    path, _ = folder
    config = json.loads((path / "config.json").read_text())
    config |= {"auto_map": {"AutoConfig": "code.Evil", "AutoModelForImageClassification": "code.Evil"}}
    config["model_type"] = "nobodys"
    (path / "config.json").write_text(json.dumps(config))
    (path / "code.py").write_text("raise SystemExit('ran')")
    with pytest.raises(ValueError, match="trust_remote_code"):
        fv.from_transformers(path)
