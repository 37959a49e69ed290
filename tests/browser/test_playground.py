"""The playground in a real browser, from file://, with the network off."""

import re

import pytest
import torch

import fimviz as fv

NORM = "[data-fv=lambda1]"
READY = f"{NORM}[data-value]"


@pytest.fixture(scope="module")
def net():
    return fv.zoo.load("digits-resnet")


@pytest.fixture(scope="module")
def saved(net, tmp_path_factory):
    pair = {"standard": net, "robust": fv.zoo.load("digits-resnet-robust")}
    return fv.playground(pair).save(tmp_path_factory.mktemp("playground") / "page.html")


def norm(page, which=0):
    return float(page.locator(NORM).nth(which).get_attribute("data-value"))


def rested(page):
    """Wait until the page has found the flips of what is drawn."""
    flips = "[...document.querySelectorAll('.fv-worst .fv-under')].map(e => e.textContent)"
    page.wait_for_function(f"() => {flips}.every(text => text && !text.includes('…'))")


def after(page, before):
    """λ₁ once the page has followed what changed it, and rests."""
    page.wait_for_function(f"before => Number(document.querySelector('{NORM}').dataset.value) !== before", arg=before)
    rested(page)
    return norm(page)


def test_numbers_of_a_sample_are_those_of_python(open_page, saved, net):
    page = open_page(saved, READY)
    images, _ = fv.zoo.digits()
    page.locator("select[data-fv=sample]").select_option("3")
    page.wait_for_timeout(100)
    rested(page)
    s = fv.spectrum(net, images[3:4], k=1)
    assert norm(page) == pytest.approx(float(s.spectral_norm[0]), rel=1e-6)
    assert page.locator("[data-fv=playground]").count() == 1
    # along v₁, the answer turns where Python says that it does
    flips = page.evaluate("[...document.querySelectorAll('.fv-worst .fv-under')][0].textContent")
    walk = s.walk(0)
    near = min(abs(f) for f in walk.flips[0].tolist())
    said = [float(f) for f in re.findall(r"ε = ([\d.]+)", flips)]
    assert min(said) == pytest.approx(near, rel=0.02)


def test_drawing_by_mouse_and_by_keys(open_page, saved):
    page = open_page(saved, READY)
    rested(page)
    before = norm(page)
    page.locator(".fv-clear").click()
    blank = after(page, before)
    page.locator(".fv-undo").click()
    assert after(page, blank) == before
    page.locator(".fv-clear").click()
    assert after(page, before) == blank
    canvas = page.locator("canvas[data-fv=draw]")
    box = canvas.bounding_box()
    page.mouse.move(box["x"] + 60, box["y"] + 60)
    page.mouse.down()
    page.mouse.move(box["x"] + 150, box["y"] + 200, steps=8)
    page.mouse.up()
    drawn = after(page, blank)
    assert drawn != blank
    canvas.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", " "):
        page.keyboard.press(key)
    by_keys = after(page, drawn)
    page.keyboard.press("Backspace")
    rubbed = after(page, by_keys)
    page.keyboard.press("Enter")
    assert "of v₁ is here" in page.locator(".fv-pixel").first.text_content()
    page.locator(".fv-undo").click()
    assert after(page, rubbed) == pytest.approx(by_keys, rel=1e-12)


def test_a_finger_on_a_phone(open_page, saved):
    page = open_page(saved, READY, viewport={"width": 390, "height": 800}, has_touch=True, is_mobile=True)
    rested(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    before = norm(page)
    canvas = page.locator("canvas[data-fv=draw]")
    box = canvas.bounding_box()
    page.touchscreen.tap(box["x"] + 30, box["y"] + 30)
    assert after(page, before) != before
    # a finger that draws does not scroll the page
    client = page.context.new_cdp_session(page)
    here = norm(page)
    touch = lambda kind, *points: client.send(  # noqa: E731
        "Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y} for x, y in points]}
    )
    touch("touchStart", (box["x"] + 40, box["y"] + 40))
    for k in range(1, 6):
        touch("touchMove", (box["x"] + 40, box["y"] + 40 + 20 * k))
    touch("touchEnd")
    assert after(page, here) != here
    assert page.evaluate("scrollY") == 0


def test_a_push_moves_the_image_and_the_answer(open_page, saved):
    page = open_page(saved, READY)
    rested(page)
    before, seen = norm(page), set()
    for way in ("up", "down", "random", "fgsm"):
        page.locator(f"[data-push={way}]").click()
        assert page.locator(f"[data-push={way}]").get_attribute("aria-pressed") == "true"
        page.locator(".fv-epsilon").evaluate(
            "range => { range.value = 0.4 * range.max; range.dispatchEvent(new Event('input', {bubbles: true})); }"
        )
        assert page.locator(".fv-then").count() == 20
        assert norm(page) == before, "λ₁ is that of the drawing"
        seen.add("".join(page.locator(".fv-p").all_text_contents()))
    assert len(seen) == 4, "each way has an answer of its own"
    rested(page)
    page.locator(".fv-keep").first.click()
    assert after(page, before) != before, "the moved image has become the drawing"
    assert page.locator(".fv-then").count() == 0


def test_each_network_has_its_own_flips_and_its_moved_image(open_page, saved, net):
    page = open_page(saved, READY)
    rested(page)
    for which in (0, 1):
        side = page.locator(".fv-net").nth(which)
        said = side.locator(".fv-turn", has_text="+v₁ makes it").inner_text()
        side.get_by_role("button", name="push there: ε just beyond this flip").first.click()
        assert "fv-flipped" in side.locator(".fv-moved").get_attribute("class")
        now = side.locator(".fv-moved strong").text_content()
        assert now == re.search(r"makes it (\S+) at", said)[1]
        assert side.locator(".fv-says-now .fv-name").all_text_contents() == [now], "its number stands out"
    pixels = "c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]"
    moved = [page.locator(".fv-moved canvas").nth(which).evaluate(pixels) for which in (0, 1)]
    assert moved[0] != moved[1]
    page.locator(".fv-keep").nth(1).click()
    page.wait_for_function("() => document.querySelectorAll('.fv-keep:disabled').length === 2")
    assert page.locator("canvas[data-fv=draw]").evaluate(pixels) == moved[1]


def test_a_sample_can_be_chosen_again(open_page, saved):
    page = open_page(saved, READY)
    rested(page)
    before, chooser = norm(page), page.locator("select[data-fv=sample]")
    assert chooser.input_value() == "0"
    page.locator("canvas[data-fv=draw]").click(position={"x": 20, "y": 20})
    after(page, before)
    assert chooser.locator("option:checked").text_content() == "your drawing"
    chooser.select_option("0")
    page.wait_for_function(f"before => Number(document.querySelector('{NORM}').dataset.value) === before", arg=before)
    assert chooser.input_value() == "0"


def test_files_to_keep(open_page, saved, tmp_path):
    page = open_page(saved, READY)
    rested(page)
    for kind in ("png", "svg", "csv"):
        with page.expect_download() as waiting:
            page.locator(f"[data-fv=export-{kind}]").click()
        content = waiting.value.path().read_bytes()
        assert content.startswith({"png": b"\x89PNG", "svg": b"<svg", "csv": b"Table: probabilities"}[kind])


def test_colours_and_a_cheap_network_follow_the_hand(open_page, tmp_path):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.GELU(), torch.nn.Flatten(), torch.nn.Linear(784, 2))
    names = ["a name that is longer than forty characters are", "<b>"]
    figure = fv.playground(fv.Classifier(net, classes=names), torch.rand(2, 3, 16, 16), [0, 1])
    page = open_page(figure.save(tmp_path / "page.html"), READY, viewport={"width": 480, "height": 900})
    rested(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 480
    before = norm(page)
    page.locator(".fv-colour").fill("#ff0000")
    box = page.locator("canvas[data-fv=draw]").bounding_box()
    page.mouse.click(box["x"] + box["width"] * 8.5 / 16, box["y"] + box["height"] * 8.5 / 16)
    after(page, before)
    red = page.locator("canvas[data-fv=draw]").evaluate("c => [...c.getContext('2d').getImageData(8, 8, 1, 1).data]")
    assert red[0] > 200 > 60 > red[1]
