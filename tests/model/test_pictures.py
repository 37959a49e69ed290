"""One picture, whichever way it comes: by path, as a PIL image, prepared, dropped on a view; in every mode of PIL."""

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

import fimviz as fv
from fimviz.model.pictures import as_seen, opened
from fimviz.views.uploads import read_images


@pytest.fixture(scope="module")
def net():
    return fv.from_torchvision("mobilenet_v3_small", weights=None)


def colours(size=(48, 40)):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))


def ways(net, path):
    raw = path.read_bytes()
    dropped = read_images([path.name], [raw], net, (3, 224, 224), (0.0, 1.0))
    images = Image.open(io.BytesIO(raw)), [str(path)]
    return [net.prepare(path), dropped, *(net.prepare(image) for image in images)]


@pytest.mark.parametrize(
    ("mode", "file"),
    [
        ("RGB", "a.jpg"), ("L", "a.jpg"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg"), ("1", "a.png"), ("L", "a.png"),
        ("P", "a.png"), ("RGB", "a.png"), ("I;16", "a.png"), ("LAB", "a.tiff"), ("CMYK", "a.tiff"), ("P", "a.gif"),
        ("RGB", "a.webp"), ("RGB", "a.tiff"), ("F", "a.tiff"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("orientation", [1, 6, 3])
def test_a_picture_is_the_same_on_all_ways(net, tmp_path, mode, file, orientation):
    picture = as_kind(colours(), mode)
    tag = Image.Exif()
    tag[0x0112] = orientation
    picture.save(tmp_path / file, **({} if file.endswith("gif") else {"exif": tag}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first, *others = ways(net, tmp_path / file)
    assert all(torch.equal(first, other) for other in others)
    with Image.open(io.BytesIO((tmp_path / file).read_bytes())) as image:
        turns = {1: 0, 6: 3, 3: 2}[orientation] if file.endswith(("jpg", "png", "webp")) else 0  # PIL turns TIFF itself
        plain = np.asarray(image.convert("RGB") if mode not in ("I;16", "F") else image)
    if mode not in ("I;16", "F"):
        upright = Image.fromarray(np.ascontiguousarray(np.rot90(plain, turns)))
        assert torch.equal(first, net.prepare(upright))


def as_kind(picture, mode):
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(picture.convert("L")).astype(np.float32) / 255)
    if mode == "LAB":
        from PIL import ImageCms

        return ImageCms.profileToProfile(
            picture, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    return picture.convert(mode)


@pytest.mark.parametrize(
    "mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV", "I;16", "F"]
)
def test_a_mode_means_what_pil_means(mode):
    grey = Image.fromarray(np.uint8([[0, 255], [255, 0]]))
    picture = as_kind(grey if mode not in ("PA",) else grey.convert("LA"), mode)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for wanted in ("L", "RGB"):
            seen = as_seen(picture, wanted)
            values = np.asarray(seen, dtype=float) / (1 if seen.mode == "F" else 255)
            grid = np.array([[0, 1], [1, 0]])
            assert np.allclose(values.reshape(2, 2, -1), grid[..., None], atol=0.01), (mode, wanted)
            assert seen.mode == ("F" if mode in ("I;16", "F") else wanted)


def test_sixteen_bits_and_floats_keep_their_digits(net):
    levels = np.linspace(0, 65535, 224 * 224).round().astype(np.uint16).reshape(224, 224)
    for byteorder in ("I;16", "I;16B"):
        wide = Image.frombytes(byteorder, (224, 224), levels.astype(">u2" if byteorder[-1] == "B" else "<u2").tobytes())
        got = net.prepare(wide)
        assert torch.allclose(got[0, 2], torch.tensor(levels / 65535).float(), atol=1e-7)
    exact = Image.fromarray((levels / 65535).astype(np.float32))
    assert torch.allclose(net.prepare(exact), got, atol=1e-7)


@pytest.mark.parametrize("picture", [Image.new("I", (9, 9), 70000), Image.new("F", (9, 9), 200.0)])
def test_numbers_without_a_range_are_refused(net, picture):
    with pytest.raises(ValueError, match=r"mode [IF] with values from .* whose range is not known: divide them"):
        net.prepare([colours(), picture])


@pytest.mark.parametrize("mode", ["LA", "RGBA", "RGBa", "La", "PA", "P"])
def test_transparency_is_said(net, mode):
    seen = Image.new("RGBA", (9, 9), (200, 0, 0, 255))
    seen.putpixel((0, 0), (200, 0, 0, 0))
    if mode in ("P", "PA"):
        seen = Image.new(mode, (9, 9))
        seen.info |= {"P": {"transparency": 0}, "PA": {}}[mode]
    else:
        for step in {"RGBA": (), "RGBa": ("RGBa",), "La": ("LA", "La"), "LA": ("LA",)}[mode]:
            seen = seen.convert(step)
    with pytest.warns(UserWarning, match=r"images\[0\] is transparent in places") as told:
        net.prepare([seen])
    assert told[0].filename == __file__


def test_of_an_animation_the_first_frame_is_taken(net, tmp_path):
    frames = [Image.new("RGB", (30, 30), c) for c in ((255, 0, 0), (0, 255, 0))]
    for file in ("a.gif", "a.png", "a.webp"):
        frames[0].save(tmp_path / file, save_all=True, append_images=frames[1:], duration=50, lossless=True)
        for batch in ways(net, tmp_path / file):
            assert batch[0, 0].min() > 0.98
            assert batch[0, 1].max() < 0.02


def test_what_cannot_be_read_is_named(net, tmp_path):
    colours((200, 200)).save(tmp_path / "whole.png")
    raw = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(raw[: len(raw) // 2])
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.jpg").touch()
    for name, error, said in (
        ("cut.png", ValueError, "cut.png is no picture that can be read"),
        ("text.jpg", ValueError, "text.jpg is no picture that can be read"),
        ("empty.jpg", ValueError, "empty.jpg is no picture"),
        ("missing.jpg", FileNotFoundError, "there is no image .*missing.jpg"),
        ("", IsADirectoryError, "is no file, expected one picture"),
    ):
        with pytest.raises(error, match=said):
            net.prepare([tmp_path / "whole.png", tmp_path / name])
        if name and error is ValueError:
            with pytest.raises(ValueError, match=said):
                read_images([name], [(tmp_path / name).read_bytes()], net, (3, 224, 224), (0.0, 1.0))
    with pytest.raises(ValueError, match=r"cut.png cannot be read"):
        net.prepare(Image.open(tmp_path / "cut.png"))
    with pytest.raises(ValueError, match=r"cut.png is no picture"):
        opened(io.BytesIO(raw[:500]), "cut.png")


def test_a_picture_dropped_on_a_network_of_one_size(tmp_path):
    grey = colours((8, 8)).convert("L")
    for name, picture in (("a.png", grey), ("b.png", as_kind(grey, "I;16")), ("c.png", grey.convert("RGB"))):
        picture.save(tmp_path / name)
        for shape in ((1, 8, 8), (8, 8), (3, 8, 8)):
            batch = read_images([name], [(tmp_path / name).read_bytes()], None, shape, (-1.0, 1.0))
            expected = torch.tensor(np.asarray(grey) / 255 * 2 - 1).float().expand(shape)
            assert torch.allclose(batch[0], expected, atol=1e-6)


def test_arrays_of_another_layout_are_told_apart(net):
    for array, said in (
        (np.zeros((3, 30, 30), np.uint8), r"has shape \(3, 30, 30\), expected .*pass torch.from_numpy\(array\)"),
        (np.zeros((30, 30, 4), np.uint8), r"leave the transparency out, array\[..., :3\]"),
        (torch.zeros(3, 30, 30, dtype=torch.uint16), "divided by 65535"),
    ):
        with pytest.raises((ValueError, TypeError), match=said):
            net.prepare(array)


def test_pictures_of_pil_for_a_network_without_a_geometry_are_told_by_their_mode():
    plain = fv.Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3)))
    for mode in ("P", "1", "I;16", "LAB", "CMYK"):
        with pytest.raises(TypeError, match=rf"PIL's mode {mode}, expected floats.*to_tensor"):
            plain([as_kind(colours((8, 8)), mode)])
