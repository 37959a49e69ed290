"""Labels and class names in whatever form tables and model configurations have them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fimviz._tell import tell

if TYPE_CHECKING:
    from fimviz.model.blackbox import BlackBox
    from fimviz.model.classifier import Classifier
    from fimviz.model.likelihoods import Likelihood


def read_names(classes: Any) -> list[str] | None:
    """Class names in the order of the model's outputs; None where none are given.

    A mapping is by index, as a configuration's id2label (whose keys JSON has made strings), or by name, as label2id.
    """
    if classes is None:
        return None
    if isinstance(classes, str | bytes):
        raise TypeError(f"classes is the string {classes!r}, expected a sequence of names")
    if isinstance(classes, set | frozenset):
        raise TypeError("classes is a set, which has no order, expected names in the order of the model's outputs")
    if isinstance(classes, Mapping):
        names = _in_order(classes)
    elif hasattr(classes, "to_pylist"):  # of pyarrow
        names = classes.to_pylist()
    elif isinstance(classes, Tensor):
        names = classes.tolist()
    else:
        try:
            names = list(classes)
        except TypeError:
            kind = type(classes).__name__
            raise TypeError(f"classes is a {kind}, expected a sequence of names") from None
    return [_name(i, name) for i, name in enumerate(names)]


def _in_order(classes: Mapping[Any, Any]) -> list[Any]:
    for keys, values in ((classes.keys(), classes.values()), (classes.values(), classes.keys())):
        places = [_index(key) for key in keys]
        if None not in places:
            if sorted(places) != list(range(len(places))):  # type: ignore[type-var]
                raise ValueError(
                    f"classes has the indices {sorted(places)[:9]}, expected each from 0 to "  # type: ignore[type-var]
                    f"{len(places) - 1} once: give one name for every output of the model"
                )
            return [name for _, name in sorted(zip(places, values, strict=True), key=lambda pair: pair[0] or 0)]
    raise TypeError("classes is a mapping without indices, expected {index: name} or {name: index}, or a list of names")


def _index(key: Any) -> int | None:
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return int(key)
    return int(key) if isinstance(key, str) and key.isdecimal() else None


def _name(place: int, name: Any) -> str:
    if isinstance(name, bytes):
        return name.decode()
    if isinstance(name, str | int | np.integer | np.bool_) or (isinstance(name, float | np.floating) and name == name):
        return str(name)
    mend = ": take one part of each, [name for _, name in classes]" if isinstance(name, tuple | list) else ""
    raise TypeError(f"classes[{place}] is {name!r}, expected a name{mend}")


def read_labels(labels: Any, count: int, net: Classifier | BlackBox) -> Tensor | None:
    """Labels as the likelihood has outcomes: class indices (n,), booleans (n, K) or numbers (n, K).

    Numbers are indices, strings are class names. Arrays, tensors on any device, tables' columns (categories by what
    they say, not by their codes), lists and columns (n, 1) of these are read.
    """
    if labels is None:
        return None
    if isinstance(labels, Brought):
        return labels.read(count, net)
    return net.likelihood.read(_array(labels, net.classes, net.likelihood), count, net.classes)


@dataclass(frozen=True)
class Brought:
    """Labels that came with the images of a data set: they hold where none are given.

    Attributes:
        labels: one an image, as the data set has them.
        names: of the data set's classes, if it knows any. Labels are told by these where the model has all of them.
        given: labels that the call gave.
    """

    labels: Sequence[Any]
    names: Sequence[str] | None
    given: Any = None

    def read(self, count: int, net: Classifier | BlackBox) -> Tensor | None:
        """The labels given, or else these, if the model's outcomes have such; a warning says why not.

        Raises:
            ValueError: labels are given that are others than these.
        """
        given = read_labels(self.given, count, net)
        try:
            own = read_labels(self._told(net), count, net)
        except (TypeError, ValueError) as error:
            if given is None:
                tell(f"the labels that come with the images are left out: {error}")
            return given
        if given is None or own is None:
            return own if given is None else given
        if len(wrong := (given != own).flatten(1 if given.ndim > 1 else 0).nonzero()):
            i = int(wrong[0, 0])
            raise ValueError(
                f"labels[{i}] is {given[i].tolist()} and the label that comes with image {i} is {own[i].tolist()}: "
                "leave labels= out, or pass the images without their own"
            )
        return given

    def _told(self, net: Classifier | BlackBox) -> Any:
        """As indices or names of the model's classes; None where none of the images has a label."""
        seen = [_index(v.item() if getattr(v, "ndim", 1) == 0 else v) for v in self.labels]
        places = [place for place in seen if place is not None]
        if places and all(place == -1 for place in seen):  # unlabelled, by a convention of data sets
            return None
        if self.names is None or len(places) < len(seen) or not net.likelihood.exclusive:
            return list(self.labels)
        if set(self.names) <= set(net.classes) and 0 <= min(places) <= max(places) < len(self.names):
            return [self.names[place] for place in places]
        if len(self.names) != len(net.classes):
            raise ValueError(
                f"the data set has {len(self.names)} classes ({', '.join(self.names[:3])}, …) and the model "
                f"{len(net.classes)}: pass labels= in the model's"
            )
        apart = next((i for i, pair in enumerate(zip(self.names, net.classes, strict=True)) if pair[0] != pair[1]), -1)
        if apart >= 0 and net.classes != list(map(str, range(len(net.classes)))):  # which are no names
            tell(
                f"the labels that come with the images are taken by their numbers: class {apart} is "
                f"{self.names[apart]!r} in the data set and {net.classes[apart]!r} in the model"
            )
        return places


def _array(labels: Any, names: Sequence[str], likelihood: Likelihood) -> np.ndarray:
    """Labels as numbers or names in an array; what has no order or no meaning is refused."""
    if isinstance(labels, Tensor):
        return _plain(labels)
    if isinstance(labels, Mapping | set | frozenset | str | bytes):
        raise TypeError(f"labels is a {type(labels).__name__}, expected one label for every image, in their order")
    if isinstance(labels, list | tuple) and labels and all(isinstance(one, Tensor) for one in labels):
        labels = [_plain(one) for one in labels]
    if hasattr(labels, "columns") and hasattr(labels, "to_numpy"):  # a table
        labels = labels.to_numpy() if likelihood.exclusive else _table(labels, names)
    elif hasattr(labels, "to_pylist"):  # of pyarrow
        labels = labels.to_pylist()
    if not hasattr(labels, "__len__"):
        mend = "[labels]" if np.ndim(labels) == 0 and isinstance(labels, int | float | np.generic) else "list(labels)"
        raise TypeError(f"labels is a {type(labels).__name__}, expected a sequence of one an image: pass {mend}")
    try:
        array = np.asarray(labels)
    except ValueError:
        array = None
    if array is None or (array.dtype == object and any(isinstance(v, list | tuple | set) for v in array.flat)):
        raise ValueError(f"labels hold sequences of different lengths: {likelihood.several}")
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8")
    if array.dtype == object:  # numbers with a missing one, of nullable columns, or 0-dimensional arrays
        plain = [v.item() if isinstance(v, np.generic | np.ndarray) and v.size == 1 else v for v in array.flat]
        if all(isinstance(v, int | float) for v in plain):
            return np.array(plain).reshape(array.shape)
    elif array.dtype.kind not in "biufUS":
        raise TypeError(f"labels are {array.dtype}, expected class indices or names")
    return array


def _plain(labels: Tensor) -> np.ndarray:
    labels = labels.detach().cpu()
    if labels.is_complex() or labels.layout != torch.strided:
        raise TypeError(f"labels are {labels.dtype} ({labels.layout}), expected class indices in a dense tensor")
    return (labels.float() if labels.dtype == torch.bfloat16 else labels).numpy()


def _table(table: Any, names: Sequence[str]) -> Any:
    columns = [str(c) for c in table.columns]
    if columns != list(names):
        if sorted(columns) != sorted(names):
            raise ValueError(
                f"the columns of labels are {', '.join(columns[:9])} and the classes are {', '.join(names[:9])}, "
                "expected the same: pass labels.to_numpy() if they stand in the classes' order"
            )
        table = table[[table.columns[columns.index(name)] for name in names]]
    return table.to_numpy()


def refuse_missing(given: np.ndarray) -> None:
    """Refuse labels with one that is not there."""
    for place, value in enumerate(given.flat):
        if value is None or value != value or type(value).__name__ in ("NAType", "NaTType"):
            raise ValueError(f"labels[{place}] is missing ({value}), expected a class for every image: drop the others")


def by_name(given: np.ndarray, names: Sequence[str]) -> np.ndarray:
    """Class indices of names."""
    places = {name: i for i, name in enumerate(names)}
    out = np.empty(given.shape, np.int64)
    for at, value in np.ndenumerate(given):
        if (name := str(value)) not in places:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(names[:9])}"
            if name.isdecimal():
                hint = "a number in a string; for class indices pass [int(label) for label in labels]"
            raise ValueError(f"labels[{at[0]}] is {name!r}, which is no class: {hint}")
        if names.count(name) > 1:
            raise ValueError(f"labels[{at[0]}] is {name!r}, and several classes have this name: pass class indices")
        out[at] = places[name]
    return out
