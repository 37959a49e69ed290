"""The training view in a real browser, offline."""

import pytest

from fimviz.training import TrainingHistory
from fimviz.views.kit.module import module_source
from tests.views.test_training import record


@pytest.fixture(scope="module")
def history():
    """Two runs of eleven records, one of which loses its numbers at step 80."""
    lost = {"accuracy": None, "mean_frobenius": None, "note": "<i>8 of 8</i> images have NaN or infinite logits"}
    standard = [
        record(10 * i, accuracy=0.1 + 0.08 * i, mean_frobenius=0.001 * 4**i, mean_trace=0.5 + i) for i in range(11)
    ]
    madry = [record(10 * i, mean_frobenius=0.001 * 2**i) | (lost if i > 7 else {}) for i in range(11)]
    runs = {"<b>standard</b> with a name of forty characters": tuple(standard), "madry": tuple(madry)}
    return TrainingHistory(runs, dict.fromkeys(runs, 8))


@pytest.mark.parametrize("width", [1400, 900, 480])
def test_one_step_for_all_charts_by_keyboard(history, open_page, tmp_path, width):
    page = open_page(history.save(tmp_path / "t.html"), ".fv-chart svg", viewport={"width": width, "height": 900})
    assert page.locator(".fv-chart svg").count() == 4
    assert page.locator(".fv-slider output").inner_text() == "step 100"
    keys = page.locator("[data-of=fisher] .fv-keys")
    assert "1.05×10³" in keys.inner_text() or "1050" in keys.inner_text()
    assert page.locator(".fv-step").inner_text() == "madry: <i>8 of 8</i> images have NaN or infinite logits."
    page.locator("input[type=range]").focus()
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    assert page.locator(".fv-slider output").inner_text() == "step 70"
    assert page.locator(".fv-step").inner_text() == ""
    assert page.locator(".fv-newest").get_attribute("aria-pressed") == "false"
    places = page.locator(".fv-chart .cursor").evaluate_all("lines => lines.map(l => l.getAttribute('x1'))")
    assert len(places) == 4
    assert len(set(places)) == 1
    page.keyboard.press("End")
    assert page.locator(".fv-newest").get_attribute("aria-pressed") == "true"
    page.locator("[data-quantity=mean_trace]").press("Enter")
    assert page.locator("[data-quantity=mean_trace]").get_attribute("aria-pressed") == "true"
    assert "10.5" in keys.inner_text()
    page.locator("summary", has_text="Table: madry").click()
    assert page.locator(".fv-tables details[open] tbody tr").count() == 11
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.locator(".fimviz h3 b, .fimviz svg b, .fimviz i i").count() == 0


def test_charts_grow_while_the_run_goes_on(history, open_page, tmp_path):
    """A payload that changes is drawn without a reload, and the newest record stays chosen."""
    page = open_page(history.save(tmp_path / "t.html"), ".fv-chart svg")
    more = {name: (*records, record(200, mean_frobenius=7.0)) for name, records in history.runs.items()}
    states = [h.view().state for h in (history, TrainingHistory(more, history.samples))]
    source = module_source("training/view.js")
    code = f"import(URL.createObjectURL(new Blob([{source!r}], {{type: 'text/javascript'}})))"
    said = page.evaluate(
        f"""async ([before, after]) => {{ const m = await {code};
        const state = {{...before}}, heard = {{}};
        const model = {{ get: (k) => state[k], set: (k, v) => {{ state[k] = v; heard[`change:${{k}}`]?.(); }},
          on: (e, call) => (heard[e] = call), off: (e) => delete heard[e], save_changes() {{}} }};
        const el = document.body.appendChild(document.createElement("div"));
        const undo = await m.default.render({{ model, el }});
        const output = () => el.querySelector("output").textContent;
        await new Promise(requestAnimationFrame);
        await new Promise(requestAnimationFrame);
        const first = output();
        model.set("payload", after.payload);
        for (let i = 0; i < 100 && output() === first; i++) await new Promise(requestAnimationFrame);
        const result = [first, output(), el.querySelector("[data-of=fisher] .fv-keys").textContent];
        undo();
        return [...result, Object.keys(heard).length, m.recordAt({{step: [3, 9]}}, 8), m.recordAt({{step: [3]}}, 2),
          m.stepText(12500), m.stepText(3), m.axisOf([1, 100], {{log: true}}).log, m.axisOf([null, null]).y]; }}""",
        states,
    )
    assert said[:2] == ["step 100", "step 200"]
    assert said[2].count(" 7") == 2
    assert said[3:] == [0, 0, -1, "12.5 k", "3", True, [-0.06, 1.06]]
