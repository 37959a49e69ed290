"""Torchvision's classifiers in one line: weights, class names, and their transforms split into geometry and scale."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from fimviz._options import named_options
from fimviz.model.classifier import Classifier
from fimviz.model.likelihoods import Likelihood
from fimviz.zoo.geometry import middle

_HASH = re.compile(r"-([a-f0-9]{8,})\.")  # of the file's content, in the name of torchvision's files


@named_options
def from_torchvision(
    name: str,
    *,
    weights: Any = "DEFAULT",
    classes: Sequence[str] | None = None,
    likelihood: str | Likelihood = "categorical",
    precision: str = "verified",
) -> Classifier:
    """A classifier of torchvision.models with its weights, class names and normalisation.

    Args:
        name: of the model, as "resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16".
        weights: "DEFAULT" or another name that torchvision knows, as "IMAGENET1K_V1", downloaded once by torch.hub;
            a file .pth (loaded with weights_only=True) or .safetensors of a state dictionary for this architecture,
            whose number of classes may be another; None for random weights.
        classes: names, where the file has other classes than ImageNet's.
        likelihood: as of `Classifier`: "bernoulli" for several labels an image.
        precision: as of `Classifier`.

    Returns:
        A `Classifier` from pixels in [0, 1], with the weights' mean and std folded in, in evaluation mode. Its
        `prepare` is the rest of the weights' own transforms: it takes paths, PIL images, arrays, tensors, lists of
        these, data sets or a folder, resizes and crops them, and returns a batch (n, 3, height, width) in [0, 1].

    Raises:
        ValueError: a name that torchvision does not have, weights of another architecture, a damaged file.
        FileNotFoundError: no such weights or file.
        ConnectionError: the weights have to be downloaded and cannot be; it says what to put where.

    Example:
        >>> import torch, fimviz as fv
        >>> net = fv.from_torchvision("mobilenet_v3_small", weights=None)
        >>> images = net.prepare(torch.zeros(3, 300, 400, dtype=torch.uint8))
        >>> images.shape, net.classes[:2], [round(m, 3) for m in net.mean.tolist()]
        (torch.Size([1, 3, 224, 224]), ['tench', 'goldfish'], [0.485, 0.456, 0.406])
    """
    from torchvision import models

    if not isinstance(name, str):
        raise TypeError(
            f"name is a {type(name).__name__}, expected that of a model, 'resnet18': a model that you have made goes "
            "into fv.Classifier(model, mean=..., std=...)"
        )
    valid = models.list_models(module=models)
    if name not in valid:
        near = difflib.get_close_matches(name, valid, 1)
        hint = f"did you mean {near[0]}?" if near else ", ".join(valid)
        raise ValueError(f"torchvision.models has no classifier {name!r}: {hint}")
    known = models.get_model_weights(name)
    default = known["DEFAULT"] if "DEFAULT" in known.__members__ else next(iter(known))
    member = default
    if weights is None or _is_file(weights, known):
        model = _bare(name) if weights is None else _from_file(name, Path(weights))
    else:
        member = weights if isinstance(weights, known) else known[str(weights)]
        model = _downloaded(name, member)
    preset = member.transforms()
    head = [p for p in model.parameters() if p.ndim > 1][-1]  # a linear layer, or in SqueezeNet a convolution
    names: Sequence[str] | None = classes
    if names is None and len(head) == len(member.meta["categories"]):
        names = member.meta["categories"]
    net = Classifier(
        model.eval(), mean=preset.mean, std=preset.std, classes=names, likelihood=likelihood, precision=precision
    )
    net.prepare = middle(preset.resize_size[0], preset.crop_size[0], preset.interpolation, preset.antialias)
    return net


def imagenet() -> list[str]:
    """The thousand classes of ImageNet, by the names that torchvision has for them."""
    from torchvision.models import ResNet18_Weights

    return list(ResNet18_Weights.DEFAULT.meta["categories"])


def _is_file(weights: Any, known: Any) -> bool:
    """Whether weights are a file; an error where they are neither that nor a name that torchvision knows."""
    if isinstance(weights, known) or str(weights) in known.__members__:
        return False
    if isinstance(weights, str | os.PathLike) and Path(weights).is_file():
        return True
    names = ", ".join(known.__members__)
    raise FileNotFoundError(f"weights is {weights!r}, expected one of {names}, a file that exists, or None")


def _bare(name: str, **options: Any) -> nn.Module:
    """The architecture with random weights; the caller's random stream stays where it was."""
    from torchvision import models

    if name in ("googlenet", "inception_v3"):  # as torchvision builds them for its weights, but without auxiliary heads
        options |= {"init_weights": False, "aux_logits": False, "transform_input": True}
    with torch.random.fork_rng(devices=[]):
        return models.get_model(name, weights=None, **options)


def _downloaded(name: str, member: Any) -> nn.Module:
    """Through torchvision's own builder and torch.hub's cache, whose file is checked against the hash in its name."""
    from torchvision import models

    file = Path(torch.hub.get_dir()) / "checkpoints" / member.url.rsplit("/", 1)[-1]
    wanted = _HASH.search(file.name)
    if file.exists() and wanted and not _sha256(file).startswith(wanted[1]):
        raise ValueError(
            f"the file {str(file)!r} is damaged: its hash is not the one in its name. Delete it, and it will be "
            "downloaded again"
        )
    try:
        with torch.random.fork_rng(devices=[]):
            return models.get_model(name, weights=member, progress=False)
    except (URLError, TimeoutError, ConnectionError) as error:
        raise ConnectionError(
            f"the weights {member} cannot be downloaded here ({error}): download {member.url} on a machine with a "
            f"network, and put it at {str(file)!r}, or pass weights= the path of the file"
        ) from None
    except RuntimeError as error:
        if "invalid hash" not in str(error):
            raise
        raise ValueError(f"what {member.url} gave is damaged ({error}): try again") from None


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _from_file(name: str, path: Path) -> nn.Module:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        state: Any = load_file(path)
    else:
        state = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ValueError(f"the file {str(path)!r} holds no state dictionary, expected names and tensors")
    model = _bare(name)
    own = model.state_dict()
    head = [key for key, v in own.items() if v.ndim == 2][-1]
    if head in state and state[head].ndim == 2 and len(state[head]) != len(own[head]):
        model = _bare(name, num_classes=len(state[head]))
        own = model.state_dict()
    aside = [key for key in state if key.startswith(("aux", "AuxLogits")) and key not in own]
    state = {key: v for key, v in state.items() if key not in aside}
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    missing, more = [key for key in own if key not in state], [key for key in state if key not in own]
    if wrong or missing or more:
        first = [*missing[:1], *more[:1], *wrong[:1]]
        raise ValueError(
            f"the file {str(path)!r} holds weights of another architecture than {name}: {len(missing)} of its "
            f"{len(own)} tensors are missing, {len(more)} are unknown, {len(wrong)} have another shape (for instance "
            f"{', '.join(first)})"
        )
    model.load_state_dict(state)
    return model
