"""Images and labels out of loaders and data sets: read once, within bounds, and leaving no trace in the process.

What is a data set here: torch's `Dataset` and `DataLoader`, Hugging Face's datasets, an iterator, a list of items, a
folder of pictures, a batch with its labels. Its items are images, (image, label, …) or mappings.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset

from fimviz._surroundings import as_given
from fimviz.model.engine.memory import readable
from fimviz.model.labels import Brought
from fimviz.model.pictures import is_picture

MOST = 1e9  # bytes of pixels in float32 that are read out of a data set: 1661 photographs of 224×224
_IMAGE = "pixel_values", "image", "images", "img", "x", "input", "inputs"
_LABEL = "label", "labels", "fine_label", "target", "targets", "y", "class"
_END = object()
_SUFFIXES = ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"


@dataclass(frozen=True)
class _Source:
    """Where images come from: `parts` are items or, if `batched`, batches; `count` of them, if that is known."""

    parts: Iterable[Any]
    count: int | None
    batched: bool
    what: str
    names: Sequence[str] | None = None
    held: bool = False  # in memory already: nothing is read


def unpacked(images: Any, labels: Any = None, net: Any = None) -> tuple[Any, Any]:
    """Images and labels in memory, out of a data set; what is none is handed back as it came.

    Labels that come with the images stand in for labels=None, and are held against those that are given
    (`fimviz.model.labels`). A shuffled loader gives the images that a loop would see next; the process's random numbers
    and the loader's are put back, so that it gives them to that loop too. Raw images are prepared as `net` wants them.

    Raises:
        ValueError: more than a gigabyte of pixels, or no end; or items without an image.
    """
    source = _source(images)
    if source is None:
        return images, labels
    with _random_states_kept(images), as_given():
        found, own = _read(source, getattr(net, "prepare", None))
    return found, labels if own is None else Brought(own, source.names, labels)


def is_raw(images: Any) -> bool:
    """Whether images are none that a model takes yet: paths, pictures, bytes."""
    return str(getattr(images, "dtype", "uint8")).removeprefix("torch.") == "uint8"


def _source(images: Any) -> _Source | None:
    kind = type(images).__name__
    if isinstance(images, DataLoader):
        batched = images.batch_sampler is not None
        return _Source(_fresh(images), _length(images), batched, f"a {kind}", _class_names(images.dataset))
    if isinstance(images, Dataset) or type(images).__module__.partition(".")[0] == "datasets":
        count = None if isinstance(images, IterableDataset) else _length(images)
        parts = images if count is None else (images[i] for i in range(count))
        return _Source(parts, count, False, f"a {kind}", _class_names(images))
    if isinstance(images, Iterator):
        return _Source(images, None, False, f"a {kind}")
    if isinstance(images, str | PathLike) and (folder := Path(images).expanduser()).is_dir():
        files = sorted(file for file in folder.iterdir() if file.suffix.lower() in _SUFFIXES)
        if not files:
            inner = any(file.is_dir() for file in folder.iterdir())
            mend = ": pass torchvision.datasets.ImageFolder(folder), whose classes are its folders" if inner else ""
            raise ValueError(
                f"the folder {str(images)!r} holds no pictures, expected files {', '.join(_SUFFIXES)}{mend}"
            )
        return _Source(files, len(files), False, f"the folder {str(images)!r}")
    if hasattr(images, "_asdict"):  # a named tuple, as fimviz.zoo.digits() gives
        images = images._asdict()
    if (isinstance(images, Mapping) and _key(images, _IMAGE)) or _is_pair(images):
        return _Source([images], 1, True, f"a {kind}", held=True)
    if isinstance(images, list | tuple) and images and _is_item(images[0]):
        return _Source(images, len(images), False, f"a {kind} of items")
    return None


def _read(source: _Source, prepare: Callable[[Any], Tensor] | None) -> tuple[Any, list[Any] | None]:
    """The images, a tensor or a list, and their labels, if all have one."""
    found: list[Any] = []
    labels: list[Any] | None = []
    size, parts, unit = 0.0, iter(source.parts), "batch" if source.batched else "item"
    try:
        while True:
            try:
                if (part := next(parts, _END)) is _END:
                    break
                image, label = _split(part, source.batched)
                _an_image(image, 2 if source.batched else 1)
                several = source.batched
                if prepare is not None and (is_raw(image) or not source.batched):
                    image, several = prepare(image if source.batched else [image]), True
            except Exception as error:
                error.add_note(f"fimviz was reading {unit} {len(found)} of {source.what}")
                raise
            found.append((image, several))
            size += sum(map(_bytes, [image] if hasattr(image, "shape") or not several else image))
            _bound(size, len(found), len(image) if several else 1, source)
            if label is None:
                labels = None
            elif labels is not None:
                labels.extend(label if source.batched else [label])
    finally:
        del parts  # and a loader's workers with it, though a traceback holds this frame
    if not found:
        raise ValueError(f"{source.what} is empty, expected at least one image")
    return _joined(found), labels


def _joined(found: list[tuple[Any, bool]]) -> Any:
    """Batches and single images in one: a tensor where they are tensors of one shape, else a list."""
    batches = [image for image, several in found if several]
    if len(batches) == len(found) and all(hasattr(one, "shape") for one in batches):
        tensors = [torch.as_tensor(one) for one in batches]
        if len({one.shape[1:] for one in tensors}) == 1:
            return tensors[0] if len(tensors) == 1 else torch.cat(tensors)
    return [one for image, several in found for one in (image if several else [image])]


def _bound(size: float, read: int, number: int, source: _Source) -> None:
    """Refuse to read on where all that is known to come, or what has come, is too much."""
    whole = size / read * max(source.count or 0, read)
    if whole <= MOST or source.held:
        return
    length = f"{source.count * number} images, {readable(whole)}" if source.count else f"more than {readable(size)}"
    raise ValueError(
        f"images is {source.what} of {length} as float32, expected at most {readable(MOST)}, which all go into one "
        "batch: pass the first N, torch.utils.data.Subset(dataset, range(64)) or list(itertools.islice(dataset, 64)), "
        "or one batch of a loader, next(iter(loader))"
    )


def _split(part: Any, batched: bool) -> tuple[Any, Any]:
    """The image or images of an item or a batch, and the label or labels, None where there is none."""
    if isinstance(part, Mapping):
        key = _key(part, _IMAGE)
        if key is None:
            raise ValueError(
                f"items have {', '.join(map(str, list(part)[:9]))}, expected the image under one of "
                f"{', '.join(_IMAGE)}: rename it, or make the list of images yourself"
            )
        label = _key(part, _LABEL)
        return part[key], None if label is None else part[label]
    if isinstance(part, list | tuple) and part:
        if batched and _is_picture_or_path(part[0]):  # a batch of pictures that nothing has collated
            return part, None
        return part[0], part[1] if len(part) > 1 else None
    return part, None


def _an_image(image: Any, least: int) -> None:
    """Refuse what stands where an item's image should: an index, a tuple of several."""
    if _is_picture_or_path(image) or isinstance(image, list) or getattr(image, "ndim", 0) >= least:
        return
    if least == 2 and isinstance(image, tuple):  # of pictures that nothing has collated
        return
    raise ValueError(f"an item begins with a {type(image).__name__}, expected (image, label): put the image first")


def _is_item(one: Any) -> bool:
    if isinstance(one, Mapping):
        return _key(one, _IMAGE) is not None
    return isinstance(one, tuple) and bool(one) and (_is_picture_or_path(one[0]) or getattr(one[0], "ndim", 0) > 0)


def _is_picture_or_path(image: Any) -> bool:
    return is_picture(image) or isinstance(image, str | PathLike)


def _is_pair(images: Any) -> bool:
    """Whether this is a batch with its labels, as loaders give it: no two images have such shapes."""
    if not isinstance(images, list | tuple) or len(images) != 2 or getattr(images[0], "ndim", 0) < 2:
        return False
    label = images[1]
    whole = (
        label.dtype in (torch.int64, torch.int32, torch.uint8)
        if isinstance(label, Tensor)
        else (isinstance(label, np.ndarray) and label.dtype.kind in "iu")
    )
    return whole and label.ndim == 1 and len(label) == len(images[0])


def _key(item: Mapping[Any, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if name in item), None)


def _bytes(image: Any) -> float:
    if is_picture(image):
        return 4.0 * image.width * image.height * len(image.getbands())
    return 4.0 * float(np.prod(image.shape)) if hasattr(image, "shape") else 0.0


def _length(data: Any) -> int | None:
    try:
        return len(data)
    except TypeError:
        return None


def _class_names(data: Any) -> Any:
    """The names of a data set's classes, as torchvision's and Hugging Face's have them, through subsets."""
    while not hasattr(data, "classes") and not hasattr(data, "features") and hasattr(data, "dataset"):
        data = data.dataset
    features = getattr(data, "features", None)
    if isinstance(features, Mapping) and (key := _key(features, _LABEL)):
        return getattr(features[key], "names", None)
    names = getattr(data, "classes", None)
    return list(names) if isinstance(names, list | tuple) else None


def _fresh(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader without the workers that it keeps, in which a loop of the user's may be half way."""
    twin = copy.copy(loader)
    twin.__dict__ |= {"persistent_workers": False, "_iterator": None}
    return twin


@contextmanager
def _random_states_kept(data: Any) -> Iterator[None]:
    """Put back the random numbers that samplers, workers and augmentations draw: the process's and the loader's."""
    samplers = [getattr(data, name, None) for name in ("sampler", "batch_sampler")]
    samplers += [getattr(one, "sampler", None) for one in samplers]
    held = [getattr(one, "generator", None) for one in (data, *samplers)]
    own = [(g, g.get_state()) for g in held if isinstance(g, torch.Generator)]
    python, old = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(old)
        for generator, state in own:
            generator.set_state(state)
