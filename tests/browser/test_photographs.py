"""Images of many pixels: what travels, what the page makes of it, and how an invisible change is looked at."""

import json
import re
import zlib
from base64 import b64decode

import numpy as np
import pytest
import torch

import fimviz as fv
from fimviz.views.kit.contrast import contrast
from fimviz.views.kit.inputs import Inputs
from tests.browser.test_perturbation import linear, rgba, slide

DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹", "0123456789")


def smooth(n, side=224, seed=3):
    """Images that compress about as photographs do: clouds with some noise."""
    generator = torch.Generator().manual_seed(seed)
    clouds = torch.nn.functional.interpolate(torch.rand(n, 3, 14, 14, generator=generator), side, mode="bicubic")
    return (clouds + 0.01 * torch.randn(n, 3, side, side, generator=generator)).clamp(0, 1)


def read(payload):
    """The JSON value of a payload."""
    packed = zlib.decompress(b64decode(payload))
    return json.loads(packed[4 : 4 + int.from_bytes(packed[:4], "little")])


@pytest.fixture(scope="module")
def photographs():
    names = [f"class {c} with a name of forty characters" for c in range(7)]
    net = linear((3, 224, 224), 7)
    net[1].weight.data = (
        net[1].weight.data.sign() * (350 * net[1].weight.data.abs()) ** 6 / 100
    )  # as in trained networks, most is small
    return fv.spectrum(fv.Classifier(net, classes=names), smooth(8), k=3)


def test_eight_photographs_with_three_directions_take_a_megabyte(photographs):
    figure = photographs.view()
    assert len(figure.setup["samples"]) == 8
    assert len(figure.html().encode()) < 1_000_000


@pytest.mark.parametrize(
    "look",
    [
        fv.reconstruction,
        lambda s: fv.attributions(s.net, s.images, methods=("Saliency", "InputXGradient"), spectrum=s),
        lambda s: fv.trace_margins(s.net, s.images, targets="runner-up", damping=1.0, verify=False),
        lambda s: fv.cckl(s.net, s.images, [c % 7 for c in range(8)]),
    ],
    ids=["reconstruction", "attributions", "margins", "divergence"],
)
def test_other_views_hold_eight_photographs_in_a_megabyte_too(photographs, look):
    figure = look(photographs).view()
    data = read(figure.state["payload"])
    assert len(data["samples"]) == 8
    assert not data["left"]
    assert len(figure.html().encode()) < 1_000_000


@pytest.mark.parametrize("count", [1, 8])
def test_moved_photograph_is_numpys_within_what_the_page_says(opened, photographs, count):
    page = opened(photographs, {"samples": count})
    i = photographs.fragile[0]
    epsilon = slide(page, 0.4 * float(photographs.reach[i]), ".fv-epsilon")
    x, v = (t.numpy().astype(float) for t in (photographs.images[i], photographs.eigenvectors[i, 0]))
    shown = {part: rgba(page, part)[..., :3].astype(float) for part in (".fv-original", ".fv-moved")}
    off = shown[".fv-original"] - (255 * x).transpose(1, 2, 0)
    lossy = "Photographs are stored with an error" in page.locator(".fv-left").inner_text()
    assert lossy == (count == 8)
    assert (np.abs(off).max() <= 0.5 + 1e-6) or (lossy and np.sqrt((off**2).mean()) < 5)
    stored = float(re.search(r"stored to ±([\d.]+)", page.locator(".fv-direction").inner_text())[1])
    # number() says one digit of the bound, which may round it down by a third
    bound = 1 + 255 * epsilon * 1.5 * stored
    change = np.clip(shown[".fv-original"] + (255 * epsilon * v).transpose(1, 2, 0), 0, 255) - shown[".fv-moved"]
    assert np.abs(change).max() <= bound


def test_the_difference_is_the_change_times_what_it_says(opened, photographs):
    page = opened(photographs, {"samples": 1})
    i = photographs.fragile[0]
    epsilon = slide(page, 1e-3 * float(photographs.reach[i]), ".fv-epsilon")
    page.get_by_label("How many times as strong the change is drawn").select_option("100")
    assert page.locator(".fv-changed figcaption").inner_text() == "difference, ×100"
    v = photographs.eigenvectors[i, 0].permute(1, 2, 0).numpy().astype(float)
    wanted = np.clip(127.5 + 100 * 255 * epsilon * v, 0, 255)
    assert np.abs(rgba(page, ".fv-changed")[..., :3] - wanted).max() <= 1 + 100 * 255 * epsilon * np.abs(v).max() / 254
    page.get_by_role("button", name="image", exact=True).click()
    assert page.locator(".fv-changed figcaption").inner_text() == "image with its change, ×100"


def test_contrast_follows_one_rule_and_a_gain(opened, photographs):
    page = opened(photographs, {"samples": 1})
    v = photographs.eigenvectors[photographs.fragile[0], 0]
    rule = page.locator(".fv-direction .fv-rule").first
    assert float(re.search(r"±([\d.]+)", rule.inner_text())[1]) == pytest.approx(contrast(v), rel=0.06)
    assert "the 99.5th percentile" in rule.inner_text()
    before = rgba(page, ".fv-direction")
    page.get_by_label("Contrast of signed maps").select_option("4")
    size = v.abs().double()
    beyond = 100 * float((size > contrast(v) / 4).double().mean())
    assert float(re.search(r"; ([\d.]+) % beyond", rule.inner_text())[1]) == pytest.approx(beyond, rel=0.1)
    assert not np.array_equal(before, rgba(page, ".fv-direction"))


def test_the_lens_reads_pixels_by_keyboard_and_by_pointer(opened, photographs):
    page = opened(photographs, {"samples": 1}, viewport={"width": 480, "height": 900}, has_touch=True)
    i = photographs.fragile[0]
    page.get_by_role("button", name="lens").focus()
    page.keyboard.press("Enter")
    row, column = (
        page.get_by_label("Row of the pixel in the lens"),
        page.get_by_label("Column of the pixel in the lens"),
    )
    v = photographs.eigenvectors[i, 0]
    assert [int(row.input_value()), int(column.input_value())] == list(divmod(int(v.abs().amax(0).argmax()), 224))
    row.fill("17")
    column.focus()
    column.fill("100")
    page.keyboard.press("ArrowUp")
    said = page.locator(".fv-crop").first.inner_text().split("\n")
    assert [float(w.split()[1]) for w in said[1:]] == pytest.approx(
        photographs.images[i, :, 17, 101].tolist(), abs=3e-3
    )
    moved = page.locator(".fv-moved canvas")
    side = moved.evaluate("c => c.clientWidth")
    moved.tap(position={"x": 0.2512 * side, "y": 0.7512 * side})
    assert (int(row.input_value()), int(column.input_value())) == (168, 56)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def asked(view):
    """A result whose view shows images, and what the lens is to read of each."""
    torch.manual_seed(1)
    shape = (3, 24, 16)
    net, images = fv.Classifier(linear(shape, 4, gain=8.0)), torch.rand(2, *shape)
    if view == "margins":
        result = fv.trace_margins(net, images[:1], targets="runner-up", damping=1.0, verify=False)
        change = result.ends[0] - images[0]
        return result, {"start": images[0], "here": images[0] + change, "difference": change}
    if view == "divergence":
        result = fv.cckl(net, images, [0, 1])
        y, x = images  # from sample 1 to sample 0, whose KL is nearer to the median of all
        ends = {"x_i, sample 1": x, "on the way": (x + y) / 2, "x_j, sample 0": y}
        return result, {**ends, "difference x_j − x_i": y - x}
    result = fv.reconstruction(fv.spectrum(net, images[:1], k=3))
    seen = result.visible[0]
    return result, {"image": images[0], "visible part": seen, "mean + visible": images[0].mean() + seen}


@pytest.mark.parametrize("view", ["margins", "divergence", "reconstruction"])
def test_every_view_of_images_has_a_lens_and_a_contrast(opened, view):
    result, pictures = asked(view)
    page = opened(result, viewport={"width": 480, "height": 900})
    page.get_by_role("button", name="lens").click()
    page.get_by_label("Row of the pixel in the lens").fill("17")
    page.get_by_label("Column of the pixel in the lens").fill("9")
    crops = [crop.split("\n") for crop in page.locator(".fv-crop").all_inner_texts()]
    assert [name for name, *_ in crops] == list(pictures)
    for (_, *words), picture in zip(crops, pictures.values(), strict=True):
        read = [float(word.split()[1].replace("−", "-").replace("×10⁻", "e-")) for word in words]
        # half a step of a byte, and two digits
        assert read == pytest.approx(picture[:, 17, 9].tolist(), rel=0.05, abs=0.006 * float(picture.abs().amax()))
    rule = page.locator(".fv-direction .fv-rule").first
    assert "the 99.5th percentile" in rule.inner_text()
    before = rgba(page, ".fv-images .fv-direction")
    page.get_by_label("Contrast of signed maps").select_option("4")
    assert "contrast ×4" in rule.inner_text()
    assert not np.array_equal(before, rgba(page, ".fv-images .fv-direction"))
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_what_attacks_add_to_a_photograph_is_shown(opened):
    found = fv.explore(linear((3, 136, 136), 3), smooth(1, 136), k=1, include=["attacks"])
    page = opened(found, wait=".fv-batch", viewport={"width": 480, "height": 900})
    page.get_by_role("tab", name="attacks").click()
    attacks = found.first.attacks
    assert attacks.success.all()
    assert page.locator(".fv-attempt canvas").count() == 2 * len(attacks.attacks)
    for j, words in enumerate(page.locator(".fv-attempt .fv-change + div").all_inner_texts()):
        stored = float(re.search(r"stored to ±([\d.]+(?:×10⁻.)?)", words)[1].replace("×10⁻", "e-").translate(DIGITS))
        shown = rgba(page, f".fv-attempt:nth-child({j + 1}) .fv-plate")[..., :3]
        off = shown - 255 * attacks.moved[0, j].permute(1, 2, 0).numpy()
        # bytes of the photograph and of the screen, and what number() rounds to one digit
        assert np.abs(off).max() <= 1.01 + 255 * 1.5 * stored
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_maps_are_as_fine_as_the_room_allows():
    v = torch.randn(24, 3, 224, 224, dtype=torch.float64)
    steps = []
    for count in (1, 8):
        inputs = Inputs((3, 224, 224), 0.0, 1.0)
        inputs.share_out(torch.zeros(count, 3, 224, 224), v[: 3 * count])
        found = inputs.encode_signed(v[0])
        steps.append(found["scale"] / 127)
        assert found["limit"] == contrast(v[0])
        size = v[0].abs()
        assert found["beyond"] == pytest.approx(float((size > contrast(v[0])).double().mean()))
        assert read(inputs.payload.pack({}))["pictures"][0][2:] == [3, 1]
    assert steps[0] < 0.3 < 1 < steps[1]
