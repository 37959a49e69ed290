"""The perturbation view in a real browser, from file://, with the network off."""

from base64 import b64decode

import numpy as np
import pytest
import torch

import fimviz as fv

PIXELS = """part => {
  const canvas = document.querySelector(`${part} canvas`);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  let bytes = '';
  for (let i = 0; i < data.length; i += 32768) bytes += String.fromCharCode(...data.subarray(i, i + 32768));
  return [canvas.width, canvas.height, btoa(bytes)];
}"""


def linear(shape, classes, seed=0, gain=1.0):
    torch.manual_seed(seed)
    layer = torch.nn.Linear(int(np.prod(shape)), classes)
    layer.weight.data *= gain
    return torch.nn.Sequential(torch.nn.Flatten(), layer)


def spectrum(shape=(1, 8, 8), classes=4, n=6, names=None, gain=4.0, **options):
    torch.manual_seed(1)
    net = fv.Classifier(linear(shape, classes, gain=gain), classes=names)
    images = torch.rand(n, *shape)
    return fv.spectrum(net, images, labels=[i % classes for i in range(n)], k=min(5, classes - 1), **options)


def slide(page, value, slider=".fv-epsilon"):
    """Where a slider then stands; `fill` would refuse a value between two steps, or beyond an end."""
    return page.locator(slider).first.evaluate(
        """(range, value) => {
          range.value = value;
          range.dispatchEvent(new Event('input', {bubbles: true}));
          return Number(range.value);
        }""",
        value,
    )


def rgba(page, part):
    width, height, packed = page.evaluate(PIXELS, part)  # as text: numbers one by one take seconds
    return np.frombuffer(b64decode(packed), np.uint8).reshape(height, width, 4)


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 16, 12), (8, 8)])
def test_moved_image_is_numpys(opened, shape):
    s = spectrum(shape)
    page = opened(s)
    i = int(s.spectral_norm.argmax())
    epsilon = slide(page, 0.4 * float(s.reach[i]))
    x, v = (t.numpy().astype(float) for t in (s.images[i], s.eigenvectors[i, 0]))
    if x.ndim == 2:
        x, v = x[None], v[None]
    moved = (255 * np.clip(x + epsilon * v, 0, 1)).transpose(1, 2, 0)
    shown = rgba(page, ".fv-moved")[..., : x.shape[0]].astype(float)
    # eight bits of x and of v/max|v|: at most one level each, to the rounding of the sum
    assert np.abs(shown - moved).max() <= 0.5 + 0.5 + 255 * abs(epsilon) * np.abs(v).max() / 254 + 1e-6
    levels = np.round(127 * v / np.abs(v).max()).transpose(1, 2, 0)
    exact = np.round(255 * x).transpose(1, 2, 0) + 255 * epsilon * np.abs(v).max() / 127 * levels
    assert np.abs(np.clip(exact, 0, 255) - shown).max() <= 0.5 + 1e-6
    page.get_by_role("button", name="ε = 0").click()
    assert np.array_equal(rgba(page, ".fv-moved"), rgba(page, ".fv-original"))


def test_numbers_on_the_page_are_pythons(opened):
    s = spectrum()
    page = opened(s)
    i = int(s.spectral_norm.argmax())
    assert (
        page.locator(".fv-title").inner_text() == f"λ₁ = {float(f'{s.spectral_norm[i]:.3g}'):g} — the most fragile of 6"
    )
    walk = s.walk(0)
    m = 5
    page.evaluate("s => document.querySelector(s).step = 'any'", ".fv-epsilon")
    slide(page, float(walk.epsilon[i, m]))
    said = page.locator(".fv-read").inner_text()
    measured, predicted = (float(w) for w in (said.split()[2], said.split()[4]))
    assert measured == pytest.approx(float(walk.kl[i, m]), rel=6e-3)
    assert predicted == pytest.approx(float(walk.quadratic[i, m]), rel=6e-3)
    word = page.locator(".fv-moved strong").inner_text()
    best = int(walk.probabilities[i, m].argmax())
    assert word == f"now: {best} (p = {float(walk.probabilities[i, m, best]):.3f})"


@pytest.mark.parametrize("classes", [4, 30])
def test_to_the_flip_names_the_new_class_for_every_sample(opened, classes):
    s = spectrum(classes=classes, n=8, gain=8.0)
    page = opened(s)
    seen = 0
    for i, k in ((i, k) for i in s.spectral_norm.argsort(descending=True).tolist() for k in range(3)):
        page.locator(f".fv-thumb[aria-label^='sample {i}:']").click()
        page.locator(f"[data-rank='{k}']").click()
        walk = s.walk(k)
        sides = walk.flips[i].abs().argsort().tolist()
        for side in (side for side in sides if walk.flips[i, side].isfinite()):
            page.get_by_role("button", name="ε = 0").click()
            assert page.locator(".fv-moved strong").inner_text().startswith(f"now: {int(s.predictions[i])} (p")
            page.get_by_role("button", name="to the flip").click()
            if side != sides[0]:
                page.get_by_role("button", name="to the flip").click()
            assert float(page.locator(".fv-slider output").inner_text().replace("−", "-").split()[-1]) == pytest.approx(
                float(walk.flips[i, side]), rel=6e-3
            )
            new = int(walk.becomes[i, side])
            assert page.locator(".fv-moved strong").inner_text().startswith(f"now: {new} (p")
            assert f"(→ {new})" in page.locator(".fv-step").inner_text()
            assert "fv-flipped" in page.locator(".fv-moved .fv-under").get_attribute("class")
            seen += 1
    assert seen > 10


def test_shown_outcome_is_the_models_at_every_distance(opened):
    s = spectrum(classes=30, n=3, gain=8.0)
    page = opened(s)
    i = int(s.spectral_norm.argmax())
    walk = s.walk(0)
    page.evaluate("s => document.querySelector(s).step = 'any'", ".fv-epsilon")
    for j in range(walk.epsilon.shape[1]):
        slide(page, float(walk.epsilon[i, j]))
        assert page.locator(".fv-moved strong").inner_text().startswith(f"now: {int(walk.outcomes[i, j])} (p")


def test_log_axis_of_kl(opened):
    page = opened(spectrum())
    linear_path = page.locator(".fv-kl path").first.get_attribute("d")
    page.get_by_role("button", name="log axis").click()
    assert page.get_by_role("button", name="log axis").get_attribute("aria-pressed") == "true"
    assert page.locator(".fv-kl path").first.get_attribute("d") != linear_path
    assert {"0.01", "0.1", "1"} & set(page.locator(".fv-kl svg .tick").all_text_contents())


def test_sign_flip_mirrors_everything(opened):
    page = opened(spectrum())
    map_before, title = rgba(page, ".fv-direction"), page.locator(".fv-title").inner_text()
    slide(page, 0.25)
    at = page.locator(".fv-slider output").inner_text()
    page.get_by_role("button", name="ε = 0").click()
    page.get_by_role("button", name="Flip the sign of the direction").click()
    mirrored = rgba(page, ".fv-direction")
    assert not np.array_equal(map_before, mirrored)
    page.get_by_role("button", name="Flip the sign of the direction").click()
    assert np.array_equal(map_before, rgba(page, ".fv-direction"))
    slide(page, 0.25)
    plus = rgba(page, ".fv-moved")
    page.get_by_role("button", name="Flip the sign of the direction").click()
    slide(page, -0.25)
    assert np.array_equal(plus, rgba(page, ".fv-moved"))
    assert page.locator(".fv-title").inner_text() == title
    assert at.startswith("ε = ")


def test_keyboard_alone(opened):
    s = spectrum()
    page = opened(s)
    order = s.spectral_norm.argsort(descending=True).tolist()
    selected = page.locator(".fv-thumb[aria-selected=true]")
    page.keyboard.press("Tab")  # the help
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.getAttribute('role')") == "option"
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", 5),
        ("ArrowRight", 5),
        ("Home", 0),
    ):
        page.keyboard.press(key)
        assert selected.get_attribute("aria-label").startswith(f"sample {order[place]}:")
    seen = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.ariaLabel || document.activeElement.textContent"))
        if page.evaluate("document.activeElement.textContent") == "2":
            page.keyboard.press("Enter")
            assert page.locator(".fv-direction figcaption").inner_text() == "direction v₂"
            assert page.evaluate("document.activeElement.textContent") == "2", "the focus stays on the button"
        if page.evaluate("document.activeElement.type") == "range":
            before = page.locator(".fv-slider output").inner_text()
            page.keyboard.press("ArrowRight")
            assert page.locator(".fv-slider output").inner_text() != before
    assert {"Flip the sign of the direction", "ε, step along the direction", "ε = 0", "to the flip", "log axis"} <= seen


def test_keys_do_not_leak(opened):
    page = opened(spectrum())
    page.evaluate("window.heard = []; document.addEventListener('keydown', e => heard.push(e.key))")
    page.locator(".fv-thumb").first.focus()
    page.keyboard.press("ArrowRight")
    page.locator("input[type=range]").focus()
    page.keyboard.press("a")
    assert page.evaluate("heard") == []


def test_dragging_a_chart_moves_epsilon(opened):
    page = opened(spectrum())
    box = page.locator(".fv-kl svg").bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    left = page.locator(".fv-slider output").inner_text()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 60, steps=4)
    page.mouse.up()
    right = page.locator(".fv-slider output").inner_text()
    assert "−" in left
    assert "−" not in right


def test_two_copies_on_a_page_live_apart(open_page, tmp_path):
    html = spectrum().view().html()
    path = tmp_path / "two.html"
    path.write_text(f"<!doctype html><meta charset=utf-8><body>{html}{html}</body>")
    page = open_page(path)
    assert page.locator(".fimviz .fv-slider").count() == 2
    page.locator("input[type=range]").nth(1).focus()
    before = page.locator(".fv-slider output").all_inner_texts()
    page.keyboard.press("PageUp")
    after = page.locator(".fv-slider output").all_inner_texts()
    assert before[0] == after[0]
    assert before[1] != after[1]


def test_readable_without_scripts(open_page, tmp_path):
    page = open_page(spectrum().save(tmp_path / "a.html"), wait=".fimviz-still", java_script_enabled=False)
    assert page.locator("img").is_visible()
    assert page.locator("table tr").count() == 7
    assert "still picture" in page.locator(".fimviz-note").inner_text()


def test_names_are_text(opened):
    names = ["<script>window.hit=1</script>", "</script><b>x", "a" * 40, "&amp; \"q'"]
    s = spectrum(names=names)
    page = opened(s)
    for i in range(6):
        page.locator(".fv-thumb").nth(i).click()
        slide(page, 0.5)
    assert page.evaluate("window.hit") is None
    assert page.locator(".fimviz b").count() == 2  # the help's own
    said = names[int(s.predictions[s.spectral_norm.argmin()])]
    assert f"the model says {said} with" in page.locator(".fv-sub").inner_text()


def nan_map():
    s = spectrum()
    s.eigenvectors[:, 0, 0, 2, 3] = torch.nan
    return s


class OneLogit(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.net = linear((1, 8, 8), 1, gain=6)

    def forward(self, x):
        return self.net(x)


def yes_no(classes):
    torch.manual_seed(3)
    model = OneLogit() if classes == 1 else linear((1, 8, 8), classes, gain=6)
    return fv.spectrum(fv.Classifier(model, likelihood="bernoulli"), torch.rand(5, 1, 8, 8), k=3)


def dead():
    """No logit depends on the input but for rounding: λ = 0."""
    model = linear((1, 8, 8), 4)
    model[1].weight.data *= 0
    return fv.spectrum(model, torch.rand(3, 1, 8, 8), k=3)


CASES = {
    "no information": dead,
    "two classes": lambda: spectrum(classes=2),
    "eleven classes": lambda: spectrum(classes=11),
    "a thousand classes": lambda: spectrum((1, 8, 8), classes=1000, n=2),
    "one logit": lambda: yes_no(1),
    "several labels": lambda: yes_no(5),
    "224 pixels, 3 channels": lambda: spectrum((3, 224, 224), classes=10, n=3, gain=30.0),
    "a wide image": lambda: spectrum((1, 4, 60)),
    "twenty features": lambda: spectrum((20,), gain=6),
    "a long series": lambda: spectrum((2, 150), gain=6),
    "four channels": lambda: spectrum((4, 6, 6)),
    "one input": lambda: spectrum(n=1),
    "NaN in a map": nan_map,
    "long names": lambda: spectrum(names=[f"{i} " + "long name " * 4 for i in range(4)]),
}


@pytest.mark.parametrize("case", CASES)
def test_every_kind_of_model_and_input(opened, case):
    s = CASES[case]()
    for width in (1400, 900, 480):
        page = opened(s, viewport={"width": width, "height": 900})
        page.wait_for_selector(".fv-prob svg")
        for place in range(min(3, len(s))):
            page.locator(".fv-thumb").nth(place).click()
        slide(page, 1e9)
        slide(page, -1e9)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "nothing is cut at the side"
        text = page.locator(".fimviz").inner_text()
        assert ("NaN" in text) == (case == "NaN in a map")
        assert "undefined" not in text
    if case == "NaN in a map":
        assert tuple(rgba(page, ".fv-direction")[2, 3, :3]) in {(90,) * 3, (150,) * 3}


def test_dark_mode(opened):
    dark = opened(spectrum(), color_scheme="dark")
    shade = "s => getComputedStyle(document.querySelector(s)).color.match(/[\\d.]+/g).slice(0, 3).map(Number)"
    assert min(dark.evaluate(shade, ".fv-title")) > 200
    assert max(opened(spectrum(), color_scheme="light").evaluate(shade, ".fv-title")) < 60


def test_page_of_a_real_cifar_network(realdata, open_page, tmp_path):
    images, labels = realdata.images("cifar10-test", 12)
    net = fv.Classifier(realdata.network("cifar10-resnet20"), classes=realdata.CIFAR10)
    s = fv.spectrum(net, images, labels=labels, k=3)
    path = s.save(tmp_path / "cifar10-resnet20.html", samples=12, directions=3)
    assert path.stat().st_size < 1_000_000
    page = open_page(path)
    assert page.locator(".fv-thumb").count() == 12
    assert page.locator(".fv-wrong").count() == int((s.predictions != labels).sum())
    i = int(s.spectral_norm.argmax())
    assert (
        f"Sample {i}: the model says {realdata.CIFAR10[int(s.predictions[i])]}" in page.locator(".fv-sub").inner_text()
    )
    for name in ("mean", "red", "green", "blue", "strongest channel"):
        page.get_by_label("Which channel of the direction").select_option(label=name)
    drawn = rgba(page, ".fv-direction")
    assert len(np.unique(drawn.reshape(-1, 4), axis=0)) > 20
