"""Lessons in a real browser with the network off: a guess is locked, formulas are drawn, slides follow the keys."""

import nbformat
import pytest

from fimviz.lessons import predict
from fimviz.lessons.__main__ import main
from tests.browser.test_accessibility import AXE, FOUND, RULES, walked
from tests.lessons.exercises import LESSONS, SOLUTIONS, asks

CHOICES = ["it grows", "it stays", "it falls"]


@pytest.fixture
def asked(open_page, tmp_path):
    def ask(question="How many?", **options):
        return open_page(predict(question, **options).save(tmp_path / "question.html"), wait=".fv-predict")

    return ask


def test_a_number_is_locked_by_the_keyboard(asked):
    page = asked(answer=9, unit="eigenvalues", why="They sum to one.")
    button = page.get_by_role("button", name="Lock my guess")
    assert button.is_disabled()
    assert page.get_by_role("status").inner_text() == ""
    page.keyboard.press("Tab")
    page.keyboard.type("64")
    page.keyboard.press("Enter")
    said = page.get_by_role("status").inner_text()
    assert said.startswith("You said 64 eigenvalues. It is 9 eigenvalues. Your guess is 7.1 times too large.")
    assert said.endswith("They sum to one.")
    assert page.locator("input").is_disabled()
    assert button.is_hidden()


@pytest.mark.parametrize(
    ("guess", "answer", "words"),
    [
        ("9.5", 9, "That is close."),
        ("0", 0, "That is close."),
        ("-3", 9, "Your guess is too small."),
        ("2", -1, "Your guess is too large."),
        ("3", 9, "Your guess is 3 times too small."),
    ],
)
def test_what_is_said_of_a_number(asked, guess, answer, words):
    page = asked(answer=answer)
    page.locator("input").fill(guess)
    page.locator("button").click()
    assert page.get_by_role("status").inner_text().endswith(words)


def test_a_choice_is_locked_and_marked(asked):
    page = asked("What happens to <b>it</b>?", answer="it stays", choices=CHOICES, why="For a reason.")
    assert page.locator("h3").inner_text() == "What happens to <b>it</b>?"
    assert "reason" not in page.locator("main").inner_text()
    page.get_by_label("it falls").check()
    page.get_by_role("button").click()
    assert page.get_by_role("status").inner_text().startswith("You said “it falls”. It is “it stays”.")
    assert page.locator(".fv-truly").inner_text().split("\n")[0] == "it stays"
    assert page.locator("input:enabled").count() == 0


def test_a_right_choice_is_praised(asked):
    page = asked(answer="it stays", choices=CHOICES)
    page.get_by_label("it stays").check()
    page.get_by_role("button").click()
    assert page.get_by_role("status").inner_text() == "You predicted it."


def sound(page):
    """No violation of WCAG, light on a wide screen and dark on a telephone, and nothing beside the page."""
    page.add_script_tag(content=AXE.AXE_SCRIPT)
    for scheme, width in (("light", 1200), ("dark", 390)):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        page.wait_for_timeout(200)
        violations, passed = page.evaluate(FOUND, RULES)
        assert violations == [], scheme
        assert {"color-contrast", "document-title", "html-has-lang"} <= {*passed}
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_a_question_is_for_everyone(asked):
    page = asked(answer="it stays", choices=CHOICES, why="For a reason.")
    assert walked(page) == ([], [])
    page.locator("label").first.click()
    page.locator("button").click()
    sound(page)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The pages of the shortest lesson, as a teacher builds them."""
    out = tmp_path_factory.mktemp("pages")
    path = min(SOLUTIONS, key=lambda path: path.stat().st_size)
    main(["build", str(LESSONS / path.name), "--out", str(out)])
    return out / f"{path.stem}.html", out / f"{path.stem}-slides.html", nbformat.read(LESSONS / path.name, as_version=4)


def test_a_page_lives_without_kernel_and_network(built, open_page):
    page = open_page(built[0], wait=".fimviz:not(.fimviz-still) h3")
    asked = page.locator(".fv-predict")
    assert asked.count() == sum(map(asks, built[2].cells))
    formulas = page.locator("math")
    assert formulas.count() > 5
    assert all(formulas.nth(i).bounding_box()["height"] > 5 for i in range(formulas.count()))
    assert "$" not in page.locator("main").inner_text()
    assert page.locator(".fimviz-still").count() == 0, "every view has started"
    assert page.locator(".exercise").count() >= 3
    page.get_by_text("Contents").click()
    page.get_by_role("link", name="Five-minute summary").click()
    assert page.get_by_role("heading", name="Five-minute summary").is_visible()


def test_slides_follow_keys_and_buttons(built, open_page):
    page = open_page(built[1], wait=".fimviz:not(.fimviz-still)", viewport={"width": 1200, "height": 800})
    place = page.locator(".steps output")
    count = int(place.inner_text().split(" / ")[1])
    assert count > 8
    assert place.inner_text() == f"1 / {count}"
    for key, now in (("ArrowRight", 2), ("PageDown", 3), ("ArrowLeft", 2), ("End", count), ("Home", 1)):
        page.keyboard.press(key)
        page.wait_for_function("n => document.querySelector('.steps output').textContent.startsWith(n)", arg=f"{now} /")
        assert page.locator(f"#s{now - 1}").bounding_box()["x"] == pytest.approx(0, abs=1)
    page.get_by_role("button", name="Next slide").click()
    page.wait_for_function("() => location.hash === '#s1'")
    page.set_viewport_size({"width": 700, "height": 800})
    page.wait_for_timeout(200)
    assert page.locator("#s1").bounding_box()["x"] == pytest.approx(0, abs=1)
    sound(page)


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_lesson_on_a_phone(path, open_page, tmp_path):
    """Without a network: all is sound and within the screen, also unfolded; under a finger that draws λ₁ moves."""
    main(["build", str(LESSONS / path.name), "--out", str(tmp_path)])
    phone = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True, "color_scheme": "dark"}
    page = open_page(tmp_path / f"{path.stem}.html", ".fimviz:not(.fimviz-still) h3", **phone)
    page.wait_for_function("() => !document.querySelector('.fimviz-still')")
    page.add_script_tag(content=AXE.AXE_SCRIPT)
    violations, passed = page.evaluate(FOUND, RULES)
    assert violations == []
    assert {"color-contrast", "document-title", "html-has-lang"} <= {*passed}
    for pad in page.locator("canvas[data-fv=draw]").all():
        norm = "() => document.querySelector('[data-fv=lambda1]').dataset.value"
        before = page.evaluate(norm)
        pad.scroll_into_view_if_needed()
        box = pad.bounding_box()
        page.touchscreen.tap(box["x"] + 30, box["y"] + 30)
        page.wait_for_function(f"before => ({norm})() !== before", arg=before)
    assert page.locator("canvas[data-fv=draw]").count() == (path.stem[0] == "2")
    page.evaluate("document.querySelectorAll('details').forEach(d => (d.open = true))")
    page.wait_for_timeout(200)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
