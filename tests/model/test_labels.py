"""Labels and class names: every form that tables and configurations have, read rightly or refused with the mend."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch

import fimviz as fv
from fimviz.model.labels import read_labels, read_names

NAMES = ["cat", "dog", "eel", "fox"]
ORDER = [2, 0, 3, 2]
STRINGS = [NAMES[i] for i in ORDER]


def net(names=NAMES, **options):
    made = fv.Classifier(torch.nn.Linear(2, len(names)), classes=names, **options)
    made(torch.rand(2, 2))
    return made


class Arrow:
    """What a column of pyarrow offers, whose items are no Python values."""

    def __init__(self, values):
        self.values = values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter([object()] * len(self.values))

    def to_pylist(self):
        return list(self.values)


class Moved(torch.Tensor):
    """A tensor that NumPy can read after `.cpu()` only, as one on a GPU."""

    def __array__(self, *args, **kwargs):
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


LABELS = {
    "ints": ORDER,
    "tuple": tuple(ORDER),
    "floats": [float(i) for i in ORDER],
    "uint8": np.array(ORDER, np.uint8),
    "uint64": np.array(ORDER, np.uint64),
    "big-endian": np.array(ORDER, ">i8"),
    "read-only": np.frombuffer(np.array(ORDER).tobytes(), np.int64),
    "reversed": np.array(ORDER[::-1])[::-1],
    "tensor": torch.tensor(ORDER),
    "bfloat16": torch.tensor(ORDER).bfloat16(),
    "half": torch.tensor(ORDER).half(),
    "uint16 tensor": torch.tensor(ORDER).to(torch.uint16),
    "tensor with gradient": torch.tensor(ORDER).double().requires_grad_(),
    "list of tensors": [torch.tensor(i) for i in ORDER],
    "list of tensors elsewhere": [torch.tensor(i).as_subclass(Moved) for i in ORDER],
    "list of arrays": [np.array(i) for i in ORDER],
    "column": np.array(ORDER)[:, None],
    "list of one-tuples": [(i,) for i in ORDER],
    "series, its index out of order": pd.Series(ORDER, index=[3, 1, 2, 0]),
    "nullable series": pd.Series(ORDER, dtype="Int64"),
    "index": pd.Index(ORDER),
    "table of one column": pd.DataFrame({"label": ORDER}),
    "categories of numbers": pd.Categorical(ORDER, categories=[3, 2, 0]),
    "arrow": Arrow(ORDER),
    "names": STRINGS,
    "array of names": np.array(STRINGS),
    "objects": np.array(STRINGS, object),
    "bytes": np.array(STRINGS, "S"),
    "series of names": pd.Series(STRINGS),
    "string series": pd.Series(STRINGS, dtype="string"),
    "categories, in another order": pd.Series(pd.Categorical(STRINGS, categories=["fox", "eel", "cat"])),
    "arrow of names": Arrow(STRINGS),
    "range": range(4),
}


@pytest.mark.parametrize("form", LABELS)
def test_labels_in_every_form(form):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = read_labels(LABELS[form], 4, net())
    assert got.dtype == torch.int64
    assert got.tolist() == (list(range(4)) if form == "range" else ORDER)


def test_labels_of_two_classes_may_be_booleans_and_numbers_in_strings_names():
    assert read_labels([True, False], 2, net(["no", "yes"])).tolist() == [1, 0]
    assert read_labels(pd.Series([True, False]), 2, net(["no", "yes"])).tolist() == [1, 0]
    assert read_labels(["7", "3"], 2, net(["3", "7"])).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.eye(4)[ORDER], r"for one-hot labels pass labels.argmax\(1\)"),
        ([0, 1, 2.5, 3], r"labels\[2\] is 2.5, expected class indices, which are whole"),
        ([0, 1, float("nan"), 3], r"labels\[2\] is missing"),
        ([0, None, 2, 3], r"labels\[1\] is missing \(None\)"),
        (pd.Series([0, 1, None, 3], dtype="Int64"), r"labels\[2\] is missing"),
        (pd.Series(["cat", None, "dog", "eel"]), r"labels\[1\] is missing"),
        (["cat", "dgo", "eel", "fox"], r"labels\[1\] is 'dgo', which is no class: did you mean 'dog'"),
        (["0", "1", "2", "3"], r"a number in a string; for class indices pass \[int\(label\)"),
        (["cat", 1, "eel", "fox"], r"labels\[1\] is '1'"),
        ([True, False, True, True], "booleans tell two classes apart, and there are 4"),
        ([0, 1, 4, 3], r"labels\[2\] is 4, expected class indices from 0 to 3"),
        ([0, 1, -1, 3], r"labels\[2\] is -1"),
        (np.array([0, 1, 2**63, 3], np.uint64), r"labels\[2\] is 9223372036854775808"),
        ([0, 1, 2], r"of shape \(3,\), expected class indices \(4,\)"),
        ([(0, 1), (1,), (2,), (3,)], "sequences of different lengths: pass one class an image"),
        ([("a", 1), ("b", 0), ("c", 1), ("d", 2)], r"of shape \(4, 2\)|which is no class"),
        ({"a.png": 0}, "labels is a dict, expected one label for every image"),
        ({0, 1, 2, 3}, "labels is a set"),
        ("cat", "labels is a str"),
        (iter(ORDER), r"pass list\(labels\)"),
        (3, r"pass \[labels\]"),
        (torch.tensor(ORDER) * 1j, "complex64"),
        (pd.to_datetime(["2020-01-01"] * 4), "datetime64"),
        (pd.DataFrame({"cat": ORDER, "dog": ORDER}), r"of shape \(4, 2\)"),
    ],
)
def test_labels_that_say_no_class_are_refused(labels, said):
    with pytest.raises((ValueError, TypeError), match=said):
        read_labels(labels, 4, net())


def test_a_name_that_two_classes_have_is_no_label():
    with pytest.raises(ValueError, match="several classes have this name: pass class indices"):
        read_labels(["crane"], 1, net(["crane", "crane", "dog"]))


def test_yes_no_labels_of_a_table_go_by_their_names():
    several = net(["edema", "mass"], likelihood="bernoulli")
    table = pd.DataFrame({"mass": [1, 0, 0], "edema": [0, 0, 1]})
    expected = torch.tensor([[0, 1], [0, 0], [1, 0]]).bool()
    for labels in (table, table[["edema", "mass"]], expected, expected.float(), expected.numpy(), expected.tolist()):
        assert torch.equal(read_labels(labels, 3, several), expected)
    for labels, said in (
        (table.rename(columns={"mass": "nodule"}), "are nodule, edema and the classes are edema, mass"),
        ([("mass",), (), ("edema",)], r"\[\[name in some for name in net.classes\] for some in labels\]"),
        ([[0, 1], [0, -1], [1, 0]], r"labels\[1, 1\] is -1, expected 0 and 1 only"),
        ([[0, 1], [0, float("nan")], [1, 0]], r"labels\[1, 1\] is nan"),
        ([["a", "b"]] * 3, "expected 0 and 1 only"),
        ([0, 1, 1], r"expected \(3, 2\) of 0 and 1"),
    ):  # fmt: skip
        with pytest.raises((ValueError, TypeError), match=said):
            read_labels(labels, 3, several)


@pytest.mark.parametrize(
    "classes",
    [
        NAMES, tuple(NAMES), np.array(NAMES), np.array(NAMES, "S"), np.array(NAMES, object), pd.Series(NAMES),
        pd.Series(NAMES, index=[3, 1, 2, 0]), pd.Index(NAMES), pd.Categorical(NAMES), Arrow(NAMES), iter(NAMES),
        dict.fromkeys(NAMES).keys(),
        {3: "fox", 0: "cat", 1: "dog", 2: "eel"}, {"3": "fox", "0": "cat", "1": "dog", "2": "eel"},
        {"fox": 3, "cat": 0, "eel": 2, "dog": 1}, {"fox": "3", "cat": "0", "eel": "2", "dog": "1"},
        {np.int64(i): name for i, name in enumerate(NAMES)},
    ],
)  # fmt: skip
def test_names_in_every_form(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_names(classes) == NAMES


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ("cat", "the string 'cat'"), (set(NAMES), "a set, which has no order"), (7, "a int, expected a sequence"),
        ({0: "cat", 2: "dog"}, "each from 0 to 1 once"), ({1: "cat", 2: "dog"}, "each from 0 to 1 once"),
        ({"cat": 0, "dog": 0}, "each from 0 to 1 once"), ({"a": "cat"}, "a mapping without indices"),
        ([("n01440764", "tench")], r"classes\[0\] is .*\[name for _, name in classes\]"),
        (["cat", None], r"classes\[1\] is None, expected a name"), (["cat", float("nan")], r"classes\[1\] is nan"),
    ],
)  # fmt: skip
def test_names_that_are_none_are_refused(classes, said):
    for door in (fv.Classifier, fv.BlackBox):
        with pytest.raises((ValueError, TypeError), match=said):
            door(torch.nn.Identity(), classes=classes)


def test_numbers_are_names_too():
    assert read_names(range(3)) == read_names(torch.arange(3)) == read_names(np.arange(3)) == ["0", "1", "2"]
