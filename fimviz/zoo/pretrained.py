"""Torchvision's classifiers in one line: weights, class names, and their transforms split into geometry and scale."""

from __future__ import annotations

import difflib
import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from fimviz._options import named_options
from fimviz.model.classifier import Classifier
from fimviz.model.images import check_values
from fimviz.model.pictures import as_seen, is_picture, opened

_HASH = re.compile(r"-([a-f0-9]{8,})\.")  # of the file's content, in the name of torchvision's files


@named_options
def from_torchvision(name: str, *, weights: Any = "DEFAULT", classes: Sequence[str] | None = None) -> Classifier:
    """A classifier of torchvision.models with its weights, class names and normalisation.

    Args:
        name: of the model, as "resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16".
        weights: "DEFAULT" or another name that torchvision knows, as "IMAGENET1K_V1", downloaded once by torch.hub;
            a file .pth (loaded with weights_only=True) or .safetensors of a state dictionary for this architecture,
            whose number of classes may be another; None for random weights.
        classes: names, where the file has other classes than ImageNet's.

    Returns:
        A `Classifier` from pixels in [0, 1], with the weights' mean and std folded in, in evaluation mode. Its
        `prepare` is the rest of the weights' own transforms: it takes paths, PIL images, arrays, tensors, lists of
        these or a Dataset, resizes and crops them, and returns a batch (n, 3, height, width) in [0, 1].

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

    valid = models.list_models(module=models)
    if name not in valid:
        near = difflib.get_close_matches(str(name), valid, 1)
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
    net = Classifier(model.eval(), mean=preset.mean, std=preset.std, classes=names)
    net.prepare = Geometry(preset.resize_size[0], preset.crop_size[0], preset.interpolation, preset.antialias)
    return net


@dataclass(frozen=True)
class Geometry:
    """Resizing and cropping as the weights were made for: images of any kind and size to a batch in [0, 1].

    Attributes:
        resize: the shorter side's length before the crop.
        crop: side of the square that is cut from the middle. A tensor or array of exactly this size is left as it is:
            what was prepared stays.
        interpolation, antialias: as torchvision has them.
    """

    resize: int
    crop: int
    interpolation: Any
    antialias: Any = True

    def __call__(self, images: Any) -> Tensor:
        """A batch (n, 3, crop, crop) of float32 in [0, 1] from paths, PIL images, arrays, tensors, lists or a Dataset.

        Arrays are (height, width), (height, width, 3) or (n, height, width, 3), tensors (3, height, width) or
        (n, 3, height, width), uint8 or floats in [0, 1]. Of a Dataset's items that are tuples the first part is taken.
        Pictures are turned upright by their EXIF tag; of an animation the first frame is taken.
        """
        batch = [self._one(image, f"images[{i}]") for i, image in enumerate(_each(images))]
        if not batch:
            raise ValueError("images is empty, expected at least one")
        return torch.stack(batch)

    def _one(self, image: Any, name: str) -> Tensor:
        from torchvision.transforms import functional as tf

        if isinstance(image, str | os.PathLike):
            name = str(image)
            image = opened(Path(image).expanduser(), name)
        if is_picture(image):
            image = as_seen(image, "RGB", getattr(image, "filename", "") or name)
            if image.mode == "F":  # more than eight bits, in [0, 1]
                image = np.asarray(image)
        if isinstance(image, np.ndarray):
            image = _planes(image, name)
        if isinstance(image, Tensor):
            if image.ndim != 3 or image.shape[0] not in (1, 3):
                raise ValueError(f"{name} has shape {tuple(image.shape)}, expected (3, height, width)")
            image = image.detach().expand(3, -1, -1)
            if image.dtype != torch.uint8:
                if not image.is_floating_point():
                    wide = " For sixteen bits pass it divided by 65535" if image.dtype == torch.uint16 else ""
                    raise TypeError(f"{name} is {image.dtype}, expected uint8 or floats in [0, 1].{wide}")
                image = check_values(image, (0.0, 1.0), f"the pixels of {name}")
            if image.shape[1:] == (self.crop, self.crop):
                return tf.convert_image_dtype(image, torch.float32)
        elif not is_picture(image):
            raise TypeError(f"{name} is a {type(image).__name__}, expected a path, PIL image, array or tensor")
        image = tf.resize(image, [self.resize], interpolation=self.interpolation, antialias=self.antialias)
        image = tf.center_crop(image, [self.crop])
        if not isinstance(image, Tensor):
            image = tf.pil_to_tensor(image)
        return tf.convert_image_dtype(image, torch.float32).clamp(0, 1)  # bicubic overshoots in floats


def _planes(array: np.ndarray, name: str) -> Tensor:
    planes = array[..., None] if array.ndim == 2 else array
    if planes.ndim != 3 or planes.shape[2] not in (1, 3):
        mend = ""
        if planes.ndim == 3 and planes.shape[0] in (1, 3):
            mend = ": where the channels come first, pass torch.from_numpy(array)"
        elif planes.ndim == 3 and planes.shape[2] == 4:
            mend = ": leave the transparency out, array[..., :3]"
        raise ValueError(f"{name} has shape {array.shape}, expected (height, width) or (height, width, 3){mend}")
    return torch.from_numpy(np.array(planes)).permute(2, 0, 1)


def _each(images: Any) -> Iterable[Any]:
    if isinstance(images, Tensor):
        return images if images.ndim == 4 else [images]
    if isinstance(images, np.ndarray):
        return images if images.ndim == 4 else [images]
    if isinstance(images, str | os.PathLike) or is_picture(images):
        return [images]
    if isinstance(images, Dataset):
        items = (images[i] for i in range(len(images)))  # type: ignore[arg-type]
        return [item[0] if isinstance(item, tuple | list) else item for item in items]
    if isinstance(images, Iterable):
        return images
    raise TypeError(f"images is a {type(images).__name__}, expected paths, PIL images, arrays, tensors or a Dataset")


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
