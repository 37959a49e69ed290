"""Image classifiers of Hugging Face's transformers in one line: each with its own image processor."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from fimviz._options import flag, named_options
from fimviz.model.classifier import Classifier
from fimviz.model.likelihoods import Likelihood
from fimviz.model.models import unwrapped
from fimviz.zoo.geometry import Geometry
from fimviz.zoo.hub import fetching, needed

_GREYS = 51, 204  # of pictures by which a processor's normalisation is found
_COLOUR = 51, 102, 204


@named_options
def from_transformers(
    model: str | os.PathLike[str] | nn.Module,
    *,
    pretrained: bool = True,
    processor: Any = None,
    classes: Sequence[str] | Mapping[Any, Any] | None = None,
    likelihood: str | Likelihood | None = None,
    precision: str = "verified",
) -> Classifier:
    """An image classifier of transformers (pip install transformers) with its own image processor.

    Args:
        model: its name on the hub, as "google/vit-base-patch16-224"; a folder that `save_pretrained` wrote; or a
            model, which stays as it is.
        pretrained: False for random weights of the architecture that the name's or folder's configuration describes.
        processor: an image processor of transformers, or the name or folder of one; by default that of the name or
            folder, or of the one that the model came from.
        classes: names in place of the configuration's id2label.
        likelihood: as of `Classifier`; by default "bernoulli" where the configuration says that an image has several
            labels, else "categorical".
        precision: as of `Classifier`.

    Returns:
        A `Classifier` from pixels in [0, 1]. The processor's rescaling and normalisation are folded into `mean` and
        `std`, found by what it makes of pictures of one colour; its `prepare` is the rest, for whatever
        `fimviz.from_torchvision` takes: paths, PIL images, arrays, tensors, lists of these, data sets, a folder.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        ValueError: no image classifier, weights without a head, a processor that does more than geometry and scale.
        ConnectionError: a file has to be downloaded and cannot be; it says so within seconds.

    Example:
        >>> import torch, fimviz as fv
        >>> from transformers import ResNetConfig, ResNetForImageClassification, ViTImageProcessor
        >>> config = ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1], id2label={0: "cat", 1: "dog"})
        >>> net = fv.from_transformers(ResNetForImageClassification(config), processor=ViTImageProcessor())
        >>> images = net.prepare(torch.zeros(3, 300, 400, dtype=torch.uint8))
        >>> images.shape, net.classes, [round(m, 3) for m in net.mean.tolist()]
        (torch.Size([1, 3, 224, 224]), ['cat', 'dog'], [0.5, 0.5, 0.5])
    """
    with needed("transformers", "from_transformers"):
        import transformers
    path = _path(model) if isinstance(model, str | os.PathLike) else ""
    if path:
        model = _made(path, pretrained)
    if not isinstance(model, nn.Module) or not isinstance(
        config := getattr(unwrapped(model), "config", None), transformers.PretrainedConfig
    ):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a name, a folder or a model of transformers: for others "
            "fv.Classifier(model, mean=..., std=...)"
        )
    if processor is None:
        processor = path or _path(getattr(unwrapped(model), "name_or_path", ""))
    if isinstance(processor, str | os.PathLike):
        processor = _processor(_path(processor))
    names: Any = classes
    if classes is None and any(name != f"LABEL_{i}" for i, name in (config.id2label or {}).items()):  # were named
        names = config.id2label
    mean, std, reverse = _scale(processor)
    net = Classifier(
        nn.Sequential(_Reversed(), model).train(model.training) if reverse else model,
        mean=mean,
        std=std,
        classes=names,
        likelihood=_likelihood(config) if likelihood is None else likelihood,
        precision=precision,
    )
    steps = _Steps(processor, mean, std, reverse)
    wide, high = (steps(Image.new("RGB", size, _COLOUR)).shape for size in ((96, 64), (64, 96)))
    net.prepare = Geometry((wide[1], wide[2]) if wide == high else None, steps)
    return net


@dataclass(frozen=True)
class _Steps:
    """What an image processor does, in pixels: its normalisation taken back."""

    processor: Any
    mean: Tensor
    std: Tensor
    reverse: bool

    def __call__(self, image: Any) -> Tensor:
        if isinstance(image, Tensor) and image.is_floating_point():
            image = image * 255  # as processors expect them
        seen = _pixels(self.processor, image).double()
        seen = seen.flip(0) if self.reverse else seen
        return (seen * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)).float()


class _Reversed(nn.Module):
    """Blue first, for networks that were trained so."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flip(1)


def _scale(processor: Any) -> tuple[Tensor, Tensor, bool]:
    """What a processor does to a pixel: the mean and std of three channels (3,), and whether it turns their order.

    Its options are as many as its kinds (rescale_factor, rescale_offset, include_top, …): what it does is seen in
    pictures of one colour.
    """
    low, high = (_at_centre(processor, (grey,) * 3) for grey in _GREYS)
    rise = (_GREYS[1] - _GREYS[0]) / 255
    std = rise / (high - low)
    mean = _GREYS[0] / 255 - low * std
    seen, colour = _at_centre(processor, _COLOUR) * std + mean, torch.tensor(_COLOUR).double() / 255
    for reverse in (False, True):
        if torch.allclose(seen.flip(0) if reverse else seen, colour, atol=1e-3) and (std > 0).all():
            mean, std = (v.flip(0) if reverse else v for v in (mean, std))
            return mean.mul(1e7).round().div(1e7), std.mul(1e7).round().div(1e7), reverse  # to what float32 holds
    raise ValueError(
        f"what {type(processor).__name__} does to colours is no normalisation of each channel: prepare the images "
        "with it, and pass fv.Classifier(model, input_range=None) what it gives"
    )


def _at_centre(processor: Any, colour: tuple[int, ...]) -> Tensor:
    pixels = _pixels(processor, Image.new("RGB", (96, 96), colour))
    return pixels[:, pixels.shape[1] // 2, pixels.shape[2] // 2].double()


def _pixels(processor: Any, image: Any) -> Tensor:
    """What a processor makes of one image, (3, height, width)."""
    layout = {"input_data_format": "channels_first"} if isinstance(image, Tensor) else {}
    given = processor(images=image, return_tensors="pt", **layout)
    pixels = given.get("pixel_values")
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or pixels.shape[:2] != (1, 3):
        shape = tuple(pixels.shape) if isinstance(pixels, Tensor) else ", ".join(given)
        raise ValueError(
            f"{type(processor).__name__} makes {shape} of a picture, expected pixel_values (1, 3, height, width): "
            "give processor= the one that belongs to an image classifier"
        )
    return pixels[0]


def _path(model: Any) -> str:
    """A name on the hub or a folder, which has to exist if it looks like one."""
    name = os.path.expanduser(os.fspath(model))
    if not os.path.isdir(name) and (isinstance(model, os.PathLike) or os.path.isabs(name) or name.startswith(".")):
        raise FileNotFoundError(f"there is no folder {name!r}, expected one that save_pretrained wrote")
    return name


def _fetching(name: str) -> AbstractContextManager[None]:
    mend = "run it once on a machine with a network, save_pretrained(folder) model and processor, and pass the folder"
    return nullcontext() if os.path.isdir(name) else fetching(name, mend)


def _made(name: str, pretrained: bool) -> nn.Module:
    """A model by its name or folder; the caller's random stream stays where it was."""
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForImageClassification
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    # torch lists the functions that make tensors at their first use under a default device, and from_pretrained is one
    # at a moment when transformers has another torch.linspace in place: the true one would be missing ever after.
    with torch.device("cpu"):
        torch.empty(0)
    with _fetching(name), torch.random.fork_rng(devices=[]):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        if type(config) not in MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING:
            raise ValueError(f"{name} is described by a {type(config).__name__}, expected an image classifier")
        if not flag("pretrained", pretrained):
            return AutoModelForImageClassification.from_config(config, trust_remote_code=False).eval()
        try:
            model, told = AutoModelForImageClassification.from_pretrained(
                name, config=config, trust_remote_code=False, weights_only=True, output_loading_info=True
            )
        except (RuntimeError, SafetensorError, UnpicklingError) as error:
            said = " ".join(str(error).split())[:200]
            raise ValueError(f"the weights of {name} cannot be read as its configuration has them: {said}") from None
    if missing := sorted(told["missing_keys"]):
        raise ValueError(
            f"{name} has no weights for {', '.join(missing[:3])}{' …' if len(missing) > 3 else ''}, expected a trained "
            "classifier: where random ones are meant, pass the model itself"
        )
    return model.eval()


def _processor(name: str) -> Any:
    from transformers import AutoImageProcessor

    mend = "give processor= one, or the name or folder of one"
    if not name:
        raise ValueError(f"the model does not say where it came from, and so not which image processor it has: {mend}")
    with _fetching(name):
        try:
            return AutoImageProcessor.from_pretrained(name, trust_remote_code=False)
        except (OSError, ValueError) as error:
            if not os.path.isdir(name):
                raise
            raise FileNotFoundError(f"the folder {name!r} holds no image processor that can be read: {mend}") from error


def _likelihood(config: Any) -> str:
    """By what a configuration says of its labels; its silence of one number means regression to transformers."""
    if config.problem_type == "regression" or (config.problem_type is None and config.num_labels == 1):
        raise ValueError(
            "the configuration describes a regression, which has no classes: pass likelihood=fv.Gaussian(sigma=...), "
            "or 'bernoulli' for one sigmoid logit"
        )
    return "bernoulli" if config.problem_type == "multi_label_classification" else "categorical"
