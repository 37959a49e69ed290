"""Images out of loaders and data sets, through every door: the same numbers, their labels, and nothing left behind."""

import copy
import itertools
import random
import warnings
from collections import namedtuple
from typing import NamedTuple

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset

import fimviz as fv
from fimviz.model import data

CLASSES = ["cat", "dog", "owl", "cow"]


class Pictures(Dataset):
    """Items as torchvision's data sets have them: (picture, class), the picture by way of a transform."""

    classes = CLASSES

    def __init__(self, images, labels, transform=None):
        self.images, self.labels, self.transform = images, labels, transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        image = Image.fromarray((self.images[i] * 255).round().byte().permute(1, 2, 0).numpy())
        return self.transform(image) if self.transform else image, int(self.labels[i])


class Stream(IterableDataset):
    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


class Batch(NamedTuple):
    images: torch.Tensor
    labels: torch.Tensor


class Table:
    """As Hugging Face's: mappings, and features that know the classes' names."""

    __module__ = "datasets.arrow_dataset"

    def __init__(self, rows, names):
        self.rows, self.features = rows, {"image": None, "label": type("ClassLabel", (), {"names": names})()}

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, i):
        return self.rows[i]


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 49, 4)).eval()
    return fv.Classifier(model, classes=CLASSES)


@pytest.fixture(scope="module")
def batch():
    torch.manual_seed(1)
    return (torch.rand(6, 3, 32, 32) * 255).round() / 255, torch.tensor([0, 1, 2, 3, 0, 1])


def to_floats(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


FORMS = {
    "loader": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=4),
    "loader of dicts": lambda x, y: DataLoader(
        [{"pixel_values": a, "labels": b} for a, b in zip(x, y, strict=True)], batch_size=4
    ),
    "loader of items": lambda x, y: DataLoader(TensorDataset(x, y), batch_size=None),
    "loader of pictures": lambda x, y: DataLoader(
        Pictures(x, y), batch_size=4, collate_fn=lambda items: tuple(zip(*items, strict=True))
    ),
    "loader with workers": lambda x, y: DataLoader(
        TensorDataset(x, y), batch_size=2, num_workers=2, persistent_workers=True
    ),
    "tensors": lambda x, y: TensorDataset(x, y),
    "pictures": lambda x, y: Pictures(x, y),
    "pictures as floats": lambda x, y: Pictures(x, y, to_floats),
    "subset": lambda x, y: Subset(Pictures(torch.cat([x, x]), torch.cat([y, y]), to_floats), range(6)),
    "stream": lambda x, y: Stream(list(zip(x, y.tolist(), strict=True))),
    "loader of a stream": lambda x, y: DataLoader(Stream(list(zip(x, y.tolist(), strict=True))), batch_size=4),
    "iterator": lambda x, y: itertools.islice(zip(x, y.tolist(), strict=True), 6),
    "list of items": lambda x, y: list(zip(x.numpy(), y.tolist(), strict=True)),
    "list of dicts": lambda x, y: [{"image": a, "label": b} for a, b in zip(x, y, strict=True)],
    "table": lambda x, y: Table([{"image": a, "label": int(b)} for a, b in zip(x, y, strict=True)], CLASSES),
    "names": lambda x, y: [(a, CLASSES[b]) for a, b in zip(x, y.tolist(), strict=True)],
    "pair": lambda x, y: (x, y),
    "one batch": lambda x, y: next(iter(DataLoader(TensorDataset(x, y), batch_size=6))),
    "named tuple": lambda x, y: Batch(x, y),
    "one batch of dicts": lambda x, y: {"pixel_values": x, "labels": y},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_data_set_gives_the_batch_and_the_labels(net, batch, form):
    x, y = batch
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = fv.spectrum(net, FORMS[form](x, y), k=1)
    assert torch.allclose(s.images, x, atol=1e-7)
    assert s.labels.tolist() == y.tolist()
    assert torch.allclose(s.eigenvalues, fv.spectrum(net, x, k=1).eigenvalues, rtol=1e-5)


UNLABELLED = {
    "list of pictures": lambda x: [Pictures(x, [0] * 6)[i][0] for i in range(6)],
    "tensors": lambda x: TensorDataset(x),
    "loader": lambda x: DataLoader(x, batch_size=4),
    "no class anywhere": lambda x: [(a, -1) for a in x],
    "dicts": lambda x: [{"img": a} for a in x],
    "names that are no labels": lambda x: namedtuple("Photos", "images names")(x, ["a"] * 6),
    "generator": lambda x: (a for a in x),
}


@pytest.mark.parametrize("form", UNLABELLED)
def test_without_labels_there_are_none(net, batch, form):
    s = fv.spectrum(net, UNLABELLED[form](batch[0]), k=1)
    assert torch.allclose(s.images, batch[0], atol=1e-7)
    assert s.labels is None


def doors(net, loader):
    few = {"max_steps": 2}
    yield lambda: fv.spectrum(net, loader, k=1).labels
    yield lambda: next(iter(fv.explore(net, loader, detail=1).models.values())).spectrum.labels
    yield lambda: fv.vulnerability(net, loader, attacks=["fgsm"]).labels
    yield lambda: fv.trace_margins(net, loader, **few).labels
    yield lambda: fv.shielding_curve(net, loader, dampings=(0.1,), **few) and None
    yield lambda: fv.cckl(net, loader).labels
    yield lambda: fv.local_accuracy(net, loader) and None
    yield lambda: fv.compare_bounds(net, loader) and None
    yield lambda: fv.certified_radius(net, loader) and None
    yield lambda: fv.attributions(net, loader, methods=["Saliency"]) and None
    yield lambda: fv.attacks.descent(net, loader, None, steps=2) is None
    yield lambda: fv.attacks.fgsm(net, loader, None, 0.1) is None
    yield lambda: net(loader) is None
    yield lambda: fv.FisherMonitor(net, loader)._labels
    yield (
        lambda: (
            fv.compare_models({"a": net, "b": net}, loader, attack_steps=1, local_images=1, attack_images=1) and None
        )
    )


@pytest.mark.parametrize("place", range(15))
def test_every_door_takes_a_shuffled_loader_and_leaves_its_process_as_it_came(net, batch, place):
    loader = DataLoader(Noisy(*batch), batch_size=4, shuffle=True)
    torch.manual_seed(5)
    expected = [torch.cat(part) for part in zip(*loader, strict=True)]
    door = list(doors(net, loader))[place]
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    labels = door()
    drawn = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(5)
    random.seed(5)
    np.random.seed(5)
    assert (torch.rand(1), random.random(), np.random.rand()) == drawn
    if isinstance(labels, torch.Tensor):
        assert labels.tolist() == expected[1].tolist()  # those that the loop would have had


class Noisy(TensorDataset):
    """Draws from all three of the process's generators, as augmentations do."""

    def __getitem__(self, i):
        torch.rand(1), random.random(), np.random.rand()
        return super().__getitem__(i)


def test_a_loaders_own_generator_and_its_loop_are_left_alone(net, batch):
    own = torch.Generator().manual_seed(3)
    loader = DataLoader(
        TensorDataset(*batch), batch_size=2, shuffle=True, generator=own, num_workers=1, persistent_workers=True
    )
    whole = [y.tolist() for _, y in copy.copy(loader)]
    own.manual_seed(3)
    seen = []
    for _, y in loader:
        seen.append(y.tolist())
        if len(seen) == 1:
            net(loader)
    assert seen == whole
    loader._iterator._shutdown_workers()


def test_labels_follow_the_names_of_the_data_set(net, batch):
    x, y = batch
    other = Pictures(x, y)
    other.classes = ["dog", "cat", "cow", "owl"]
    assert fv.spectrum(net, other, k=1).labels.tolist() == [[1, 0, 3, 2][i] for i in y]
    other.classes = ["Felis", "Canis", "Bubo", "Bos"]  # as many: their order is all there is
    with pytest.warns(
        UserWarning, match=r"by their numbers: class 0 is 'Felis' in the data set and 'cat' in the model"
    ):
        assert fv.spectrum(net, other, k=1).labels.tolist() == y.tolist()
    other.classes = ["cat", "dog"]
    assert fv.spectrum(net, Subset(other, [0, 1]), k=1).labels.tolist() == [0, 1]
    other.classes = [f"thing {i}" for i in range(9)]
    with pytest.warns(
        UserWarning, match=r"are left out: the data set has 9 classes \(thing 0, .* and the model 4"
    ) as told:
        assert fv.spectrum(net, other, k=1).labels is None
    assert told[0].filename == __file__


def test_labels_that_are_none_of_the_models_are_left_out_with_a_word(net, batch):
    x, _ = batch
    for label in (7, "mouse", {"boxes": 3}):
        with pytest.warns(UserWarning, match="the labels that come with the images are left out"):
            assert fv.spectrum(net, [(a, label) for a in x], k=1).labels is None
    with (
        pytest.warns(UserWarning, match="are left out"),
        pytest.raises(TypeError, match="labels is None, expected one for each of 6 images"),
    ):
        fv.cckl(net, [(a, 7) for a in x])


def test_labels_given_beside_others_have_to_agree(net, batch):
    x, y = batch
    loader = DataLoader(TensorDataset(x, y), batch_size=4)
    assert fv.spectrum(net, loader, k=1, labels=y).labels.tolist() == y.tolist()
    assert fv.spectrum(net, loader, k=1, labels=[CLASSES[i] for i in y]).labels.tolist() == y.tolist()
    with pytest.raises(ValueError, match=r"labels\[1\] is 2 and the label that comes with image 1 is 1: leave labels="):
        fv.spectrum(net, loader, k=1, labels=[0, 2, 2, 3, 0, 1])
    assert fv.spectrum(net, [(a, 99) for a in x], k=1, labels=y).labels.tolist() == y.tolist()


def test_several_labels_an_image_come_along(batch):
    x, _ = batch
    torch.manual_seed(0)
    net = fv.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(3072, 3)), likelihood="bernoulli")
    truth = torch.tensor([[0, 1, 1]]).expand(6, -1)
    s = fv.spectrum(net, DataLoader(TensorDataset(x, truth), batch_size=4), k=1)
    assert s.labels.tolist() == truth.bool().tolist()


@pytest.mark.parametrize("labels", [True, False])
def test_a_black_box_and_several_models_take_one(net, batch, labels):
    x, y = batch
    loader = DataLoader(TensorDataset(x, y) if labels else TensorDataset(x), batch_size=4, shuffle=True)
    box = fv.BlackBox(lambda a: net(torch.from_numpy(a)).numpy())
    assert fv.spectrum(box, loader, k=1, probes=4).images.shape == x.shape
    both = {"a": net, "b": net}
    if labels:
        few = {"attack_steps": 1, "attack_images": 1, "local_images": 1}
        assert len(fv.compare_models(both, {"a": loader, "b": loader}, **few).models) == 2
    else:
        with pytest.raises(TypeError, match="labels is None, expected one for each of 6 images"):
            fv.compare_models(both, loader)
    found = fv.explore(both, loader, detail=1)
    assert torch.equal(*(model.spectrum.images for model in found.models.values()))


def test_raw_pictures_are_prepared_by_the_model(batch, tmp_path):
    net = fv.from_timm(timm.create_model("test_resnet", num_classes=4))
    raw = Pictures(*batch, lambda image: image.resize((200, 170 + random.randint(0, 9))))
    loader = DataLoader(raw, batch_size=3, collate_fn=lambda items: tuple(zip(*items, strict=True)))
    assert net.admit(loader).shape == net.admit(raw).shape == (6, 3, 160, 160)
    prepared = Pictures(*batch, lambda image: net.prepare(image)[0])
    assert torch.equal(net.admit(DataLoader(prepared, batch_size=4)), net.admit([prepared[i][0] for i in range(6)]))
    images = (batch[0] * 255).byte()
    for form in (DataLoader(TensorDataset(images, batch[1]), batch_size=3), (images, batch[1]), images):
        assert torch.equal(net.admit(form), net.prepare(images))
    for i in (1, 0):
        raw[i][0].save(tmp_path / f"{i}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    assert torch.equal(net.admit(tmp_path), net.prepare([tmp_path / "0.png", tmp_path / "1.png"]))
    assert torch.equal(net.admit(tmp_path.glob("1.png")), net.prepare(tmp_path / "1.png"))


class Endless(IterableDataset):
    read = 0

    def __iter__(self):
        while True:
            Endless.read += 1
            yield torch.rand(3, 32, 32), 0


def test_what_does_not_fit_is_refused_before_it_is_read(net, batch, monkeypatch):
    read = []

    class Huge(Pictures):
        def __len__(self):
            return 1_281_167

        def __getitem__(self, i):
            read.append(i)
            return super().__getitem__(0)

    said = r"1281167 images, 15.7 GB as float32, expected at most 1 GB, .*Subset\(dataset, range\(64\)\)"
    with pytest.raises(ValueError, match=r"images is a Huge of " + said):
        fv.spectrum(net, Huge(*batch, to_floats))
    assert read == [0]
    with pytest.raises(ValueError, match=r"images is a DataLoader of 1281168 images"):
        fv.spectrum(net, DataLoader(Huge(*batch, to_floats), batch_size=8))
    monkeypatch.setattr(data, "MOST", 1e6)
    for form in (Endless(), iter(Endless()), DataLoader(Endless(), batch_size=8)):
        Endless.read = 0
        with pytest.raises(ValueError, match=r"of more than 1\.\d+ MB as float32, expected at most 1 MB.*islice"):
            fv.spectrum(net, form)
        assert Endless.read <= 96
    assert len(net.admit((batch[0].repeat(20, 1, 1, 1), batch[1].repeat(20)))) == 120  # is in memory already
    first = fv.spectrum(net, list(itertools.islice(Endless(), 4)), k=1)
    assert first.labels.tolist() == [0] * 4


def test_what_fails_half_way_is_named(net, batch):
    class Broken(Pictures):
        def __getitem__(self, i):
            if i == 4:
                raise OSError("the disk is gone")
            return super().__getitem__(i)

    broken = Broken(*batch, to_floats)
    for form, place in (
        (DataLoader(broken, batch_size=2), "batch 2 of a DataLoader"),
        (DataLoader(broken, batch_size=2, num_workers=1), "batch 2 of a DataLoader"),
        (broken, "item 4 of a Broken"),
        ([(batch[0][0], 0), {"text": 1}], "item 1 of a list of items"),
    ):
        with pytest.raises((OSError, ValueError), match=r"the disk is gone|items have text, expected") as caught:
            fv.spectrum(net, form)
        assert caught.value.__notes__ == [f"fimviz was reading {place}"]


def test_what_is_wrong_is_said(net, batch, tmp_path):
    x, y = batch
    (tmp_path / "cats").mkdir()
    normalised = TensorDataset((x - 0.5) / 0.25, y)
    for form, said in (
        (DataLoader(normalised, batch_size=4), r"images run from -2 to 2, .*normalised already, pass the raw pixels"),
        (normalised, "normalised already"),
        (TensorDataset((x * 255).byte(), y), "images are uint8"),
        (
            DataLoader(TensorDataset((x * 255).byte(), y)),
            r"uint8 .*data set .* transform .*ToDtype\(torch.float32, scale=T",
        ),
        ([(x[0], 0), (x[0, :, :9], 1)], "different shapes"),
        (DataLoader([x[0], x[0, :, :9]], batch_size=1), "different shapes"),
        ([(0, x[0])], "whose parts have different shapes"),
        (Table([(0, x[0], 1)], []), r"an item begins with a int, expected \(image, label\): put the image first"),
        (DataLoader(TensorDataset(y, x)), "begins with a Tensor, expected"),
        (Table([((x[0], x[1]), 1)], []), "begins with a tuple, expected"),
        (DataLoader(TensorDataset(x[:0])), "a DataLoader is empty"),
        (Table([{"text": "a"}], []), r"items have text, expected the image under one of pixel_values"),
        (tmp_path / "cats", r"the folder .* holds no pictures, expected files .bmp, .*webp$"),
        (tmp_path, r"the folder .* holds no pictures, .*ImageFolder\(folder\)"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            fv.spectrum(net, form)
