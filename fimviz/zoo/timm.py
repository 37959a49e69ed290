"""timm's classifiers in one line: its weights and its transforms, split into geometry and scale."""

from __future__ import annotations

import difflib
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options
from fimviz.model.classifier import Classifier
from fimviz.model.likelihoods import Likelihood
from fimviz.model.models import unwrapped
from fimviz.zoo.geometry import Geometry
from fimviz.zoo.hub import fetching, needed
from fimviz.zoo.torchvision import imagenet


@named_options
def from_timm(
    model: str | nn.Module,
    *,
    pretrained: bool | str | os.PathLike[str] = True,
    classes: Sequence[str] | None = None,
    likelihood: str | Likelihood = "categorical",
    precision: str = "verified",
) -> Classifier:
    """A classifier of timm (pip install timm) with its weights, class names, geometry and normalisation.

    Args:
        model: its name, as "resnet18.a1_in1k", "convnext_tiny", "hf-hub:timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k"
            or "local-dir:folder"; or a model that timm has made, which stays as it is.
        pretrained: True for the published weights, fetched once into the hub's cache; a file of a state dictionary
            for this architecture, whose number of classes may be another; False for random weights. A file that is no
            .safetensors is read with weights_only=True: it cannot run code.
        classes: names, where the weights have other classes than ImageNet's and do not say which.
        likelihood: as of `Classifier`: "bernoulli" for several labels an image.
        precision: as of `Classifier`.

    Returns:
        A `Classifier` from pixels in [0, 1], with the mean and std of `timm.data.resolve_model_data_config` folded in,
        in evaluation mode. Its `prepare` is the rest of timm's evaluation transform, for whatever
        `fimviz.from_torchvision` takes: paths, PIL images, arrays, tensors, lists of these, data sets, a folder.

    Raises:
        ModuleNotFoundError: timm is not installed.
        ValueError: a name that timm does not have, a model without a head, weights of another architecture.
        ConnectionError: the weights have to be downloaded and cannot be; it says so within seconds.

    Example:
        >>> import torch, fimviz as fv
        >>> net = fv.from_timm("test_resnet", pretrained=False)
        >>> images = net.prepare(torch.zeros(3, 300, 400, dtype=torch.uint8))
        >>> images.shape, net.classes[:2], [round(m, 3) for m in net.mean.tolist()]
        (torch.Size([1, 3, 160, 160]), ['tench', 'goldfish'], [0.5, 0.5, 0.5])
    """
    with needed("timm", "from_timm"):
        from timm.data import create_transform, resolve_model_data_config
    if isinstance(model, str):
        model = _made(model, pretrained)
    elif not isinstance(pretrained, bool):
        raise TypeError(f"pretrained is {pretrained!r} beside a model, which has its weights: expected a model's name")
    inner = unwrapped(model)
    if not isinstance(getattr(inner, "pretrained_cfg", None), dict):
        raise TypeError(
            f"model is a {type(model).__name__}, expected a name or a model that timm made and that knows its "
            "transform: for others fv.Classifier(model, mean=..., std=...)"
        )
    if not getattr(inner, "num_classes", 0):
        raise ValueError("the model has num_classes=0, so no classes: make it with its head")
    config = resolve_model_data_config(inner)
    channels = next((p.shape[1] for p in inner.parameters() if p.ndim == 4), 3)  # of its first convolution
    sides = tuple(getattr(getattr(inner, "patch_embed", None), "img_size", None) or config["input_size"][1:])
    mean, std = ([sum(v) / len(v)] if channels == 1 else v for v in (config["mean"], config["std"]))
    names = _names(inner) if classes is None else classes
    net = Classifier(model, mean=mean, std=std, classes=names, likelihood=likelihood, precision=precision)
    if channels in (1, 3):
        steps = create_transform(**config | {"input_size": (channels, *sides)}, is_training=False, normalize=False)
        if config["crop_mode"] == "border":  # pads with a colour of eight bits
            steps.transforms.insert(0, _picture)
        net.prepare = Geometry(sides, steps, channels)
    return net


def _picture(image: Any) -> Any:
    from torchvision.transforms.functional import to_pil_image

    return to_pil_image(image) if isinstance(image, Tensor) else image


def _made(name: str, pretrained: Any) -> nn.Module:
    """A model by its name; the caller's random stream stays where it was."""
    import timm

    if ":" not in name and not timm.is_model(name.partition(".")[0]):
        near = difflib.get_close_matches(name, timm.list_models(), 1)
        hint = f"did you mean {near[0]}?" if near else "timm.list_models('*net*') lists those that it has"
        if "/" in name:
            hint = f"'hf-hub:{name}' for a repository of the hub, 'local-dir:{name}' for a folder"
        raise ValueError(f"timm has no model {name!r}: {hint}")
    mend = "run it once on a machine with a network, or pass pretrained= the path of a file of weights, or False"
    with torch.random.fork_rng(devices=[]):
        if isinstance(pretrained, bool):
            if ":" in name and not name.startswith("hf"):
                return timm.create_model(name, pretrained=pretrained).eval()
            with fetching(f"timm's {name}", mend) if pretrained or ":" in name else nullcontext():
                return timm.create_model(name, pretrained=pretrained).eval()
        return _from_file(name, Path(pretrained))


def _from_file(name: str, path: Path) -> nn.Module:
    """Through timm's own loading code, which knows the layouts of older files."""
    import timm
    from safetensors import SafetensorError
    from timm.models import get_pretrained_cfg, load_state_dict

    if not path.is_file():
        raise FileNotFoundError(f"pretrained is {str(path)!r}, expected True, False or a file that exists")
    try:
        state = load_state_dict(str(path), weights_only=True)
    except (RuntimeError, OSError, EOFError, AttributeError, UnpicklingError, SafetensorError) as error:
        raise ValueError(f"the file {str(path)!r} holds no state dictionary that can be read: {error}") from None
    if not state or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"the file {str(path)!r} holds no state dictionary, expected names and tensors")
    config = get_pretrained_cfg(name)
    head = state.get(f"{getattr(config, 'classifier', None)}.weight")
    count = getattr(config, "num_classes", 1000) if head is None else len(head)
    overlay = {"state_dict": state, "num_classes": count, "label_offset": 0, "custom_load": False}
    try:
        return timm.create_model(name, pretrained=True, num_classes=count, pretrained_cfg_overlay=overlay).eval()
    except (RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())[:200]
        raise ValueError(f"the file {str(path)!r} holds weights of another architecture than {name}: {said}") from None


def _names(model: Any) -> list[str] | None:
    """Names by the weights' configuration, or by how many classes there are: ImageNet's, its 12k and its 21k."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    config, count = model.pretrained_cfg, model.num_classes
    if given := config.get("label_names"):
        told = config.get("label_descriptions") or {}
        names = [str(told.get(name, name)) for name in (given.values() if isinstance(given, dict) else given)]
    elif count == 1000:
        names = imagenet()
    elif subset := infer_imagenet_subset(model):
        names = [said.partition(",")[0] for said in ImageNetInfo(subset).label_descriptions()]
    else:
        return None
    return names if len(names) == count else None
