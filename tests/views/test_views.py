"""The views without a browser: HTML that is safe, small and the same every time; the live widget on a mock comm."""

import base64
import dataclasses
import itertools
import json
import re
import shutil
import subprocess
import warnings
import zlib
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import traitlets

import fimviz as fv
from fimviz.fisher.walk import both_sides, walk
from fimviz.views.comparison.view import Comparison
from fimviz.views.kit import figure as host
from fimviz.views.kit import module as modules
from fimviz.views.perturbation.numbers import nodes
from fimviz.views.perturbation.view import Perturbation, _ends


def model(inputs=64, classes=4, seed=0):
    torch.manual_seed(seed)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(inputs, classes))


@pytest.fixture(scope="module")
def spectrum():
    torch.manual_seed(1)
    return fv.spectrum(model(), torch.rand(6, 1, 8, 8), labels=[0, 1, 2, 3, 0, 1], k=3)


def unpacked(figure):
    raw = zlib.decompress(base64.b64decode(figure.state["payload"]))
    end = 4 + int.from_bytes(raw[:4], "little")
    return json.loads(raw[4:end]), raw[end:]


def test_display_is_static_html_and_one_plain_line(spectrum):
    bundle = spectrum._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}, "JupyterLab would prefer a widget and lose it on reopening"
    assert "\n" not in bundle["text/plain"]
    assert "0x" not in bundle["text/plain"]


def test_html_is_deterministic_and_needs_no_network(spectrum):
    html = spectrum.view().html()
    again = fv.spectrum(spectrum.net, spectrum.images, labels=spectrum.labels, k=3).view().html()
    assert html == again
    module = zlib.decompress(base64.b64decode(json.loads(payload_script(html))["module"])).decode()
    assert module == modules.module_source("perturbation/view.js")
    assert not re.search(r"https?://", html + module)
    assert 'from ".' not in module, "helpers are inlined"


def test_no_view_asks_the_network():
    sources = list(modules.VIEWS.rglob("*.js"))
    assert len(sources) > 20
    assert not [
        path.name for path in sources if re.search(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket", path.read_text())
    ]


def test_views_share_no_class_by_accident():
    """One sheet serves all views: a name that two of them define is one that the later overrides."""
    names = re.findall(r"^(\.fv-[\w-]+) \{", (modules.VIEWS / "kit/style.css").read_text(), re.MULTILINE)
    assert len(names) > 50
    assert sorted(names) == sorted(set(names))


def test_views_use_only_the_portable_surface_of_the_model():
    """Of anywidget's model get, set, on, off, save_changes and send; VS Code, Colab, Voila and marimo have these."""
    for path in modules.VIEWS.rglob("*.js"):
        used = set(re.findall(r"\bmodel\.(\w+)\(", path.read_text()))
        assert used <= {"get", "set", "on", "off", "save_changes", "send"}, path.name
        assert not re.search(r"widget_manager|experimental|require\(|\bJupyter\b", path.read_text()), path.name


def payload_script(html):
    return re.search(r'<script type="application/json">(.*?)</script>', html, re.S)[1]


def test_script_cannot_be_broken_out_of(spectrum):
    names = ["</script><script>alert(1)</script>", "<!--", "'\"&", "ok"]
    s = fv.spectrum(fv.Classifier(model(), classes=names), spectrum.images, k=2)
    html = s.view().html()
    assert html.count("<script") == html.count("</script>") == 2
    assert "<!--" not in html
    assert "<" not in payload_script(html)
    assert unpacked(s.view())[0]["classes"] == names
    still = html[html.index("fimviz-still") : html.index("application/json")]
    assert "alert(1)" not in still or "&lt;script&gt;alert(1)" in still


def test_payload_holds_the_numbers_of_the_spectrum(spectrum):
    figure = spectrum.view(samples=4, directions=2)
    data, blob = unpacked(figure)
    assert len(data["samples"]) == 4
    order = spectrum.spectral_norm.argsort(descending=True)[:4].tolist()
    assert [s["index"] for s in data["samples"]] == order
    for s in data["samples"]:
        i = s["index"]
        assert [d["value"] for d in s["directions"]] == spectrum.eigenvalues[i, :2].tolist()
        assert s["correct"] == (int(spectrum.predictions[i]) == int(spectrum.labels[i]))
        offset, length = s["image"]
        x = np.frombuffer(blob[offset : offset + length], np.uint8).reshape(8, 8)
        assert np.array_equal(x, np.round(255 * spectrum.images[i, 0].numpy()))
        for k, d in enumerate(s["directions"]):
            offset, length = d["map"]
            v = np.frombuffer(blob[offset : offset + length], np.int8).reshape(8, 8) * d["scale"] / 127
            assert np.abs(v - spectrum.eigenvectors[i, k, 0].numpy()).max() <= d["scale"] / 254 + 1e-7
            p = np.exp(np.array(d["logp"]))
            assert np.abs(p.sum(0) - 1).max() < 1e-3
            walk = spectrum.walk(k)
            assert np.allclose(d["kl"], walk.kl[i], rtol=1e-3)
            grid = np.linspace(-1, 1, 33) * s["reach"]
            assert np.allclose(np.sort([*grid, *d["at"]]), walk.epsilon[i], rtol=1e-12)
            assert d["outcomes"] == walk.outcomes[i].tolist()
            assert d["becomes"] == walk.becomes[i].tolist()


def test_classes_beyond_eight_are_gathered():
    s = fv.spectrum(model(classes=11), torch.rand(2, 1, 8, 8), k=2)
    d = unpacked(s.view())[0]["samples"][0]["directions"][0]
    assert d["shown"][-1] == -1
    assert 5 <= len(d["shown"]) - 1 <= 6
    assert np.allclose(np.exp(np.array(d["logp"])).sum(0), 1, atol=2e-3)


def test_samples_can_be_chosen(spectrum):
    data = unpacked(spectrum.view(samples=[1, 4]))[0]
    assert {s["index"] for s in data["samples"]} == {1, 4}
    assert len(unpacked(spectrum.view(samples=np.int64(3)))[0]["samples"]) == 3
    for wrong in (0, [7], [], "3", 2.5):
        with pytest.raises((ValueError, TypeError), match=r"samples is|integer"):
            spectrum.view(samples=wrong)
    with pytest.raises(TypeError, match="did you mean samples"):
        spectrum.save("never.html", smples=3)


def test_large_images_show_fewer_samples_by_default():
    s = fv.spectrum(model(3 * 128 * 128, 3), torch.rand(40, 3, 128, 128), k=2)
    figure = s.view()
    assert 4 < len(unpacked(figure)[0]["samples"]) < 32
    assert len(figure.html()) < 8_000_000


def test_displays_share_the_walks(spectrum):
    part = spectrum.take([1, 2])
    assert spectrum.take([1, 2]) is part
    assert part.walk(0) is part.walk(0)


def test_labels_of_yes_no_models():
    labels = torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0]])
    net = fv.Classifier(model(), likelihood="bernoulli", classes=list("abcd"))
    s = fv.spectrum(net, torch.rand(2, 1, 8, 8), k=2)
    shown = unpacked(dataclasses.replace(s, labels=labels.bool(), _parts={}).view())[0]["samples"]
    assert {tuple(q["label"]) for q in shown} == {(0, 2), ()}
    assert [q["correct"] for q in shown] == [q["prediction"] == q["label"] for q in shown]


def test_size_is_warned_of_and_refused(spectrum):
    with pytest.raises(ValueError, match=r"max_bytes"):
        spectrum.view(max_bytes=1000).html()
    with pytest.raises(ValueError, match=r"max_bytes"):
        spectrum.save("never.html", max_bytes=1000)
    noise = fv.spectrum(model(3 * 128 * 128, 3), torch.rand(40, 3, 128, 128), k=2)
    with pytest.warns(UserWarning, match=r"this view takes \d"):
        noise.view(samples=40, directions=2).html()


def test_cifar_size_stays_under_a_megabyte():
    torch.manual_seed(0)
    images = torch.rand(32, 3, 32, 32)  # noise deflates worse than any photograph
    s = fv.spectrum(model(3072, 10), images, k=5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(s.view(samples=32, directions=5).html().encode()) < 1_000_000


def test_saved_file_is_whole_or_absent(spectrum, tmp_path, monkeypatch):
    path = spectrum.save(tmp_path / "a.html")
    assert path.read_text().startswith("<!doctype html>")
    assert "<title>" in path.read_text()
    monkeypatch.setattr(host.Figure, "html", lambda self: (_ for _ in ()).throw(RuntimeError("half way")))
    with pytest.raises(RuntimeError):
        spectrum.save(tmp_path / "b.html")
    assert [p.name for p in tmp_path.iterdir()] == ["a.html"]
    with pytest.raises(FileNotFoundError, match="create it first"):
        spectrum.save(tmp_path / "no" / "a.html")


def test_no_vectors_no_view():
    s = fv.spectrum(model(), torch.rand(2, 1, 8, 8), vectors=False)
    for show in (s.view, s.widget, s.walk):
        with pytest.raises(ValueError, match="vectors=True"):
            show()
    assert "<table" in s._repr_mimebundle_()["text/html"]


def test_plot_has_a_log_axis_and_every_eigenvalue(spectrum):
    figure = spectrum.plot()
    assert figure.layout.yaxis.type == "log"
    assert len(figure.data) == 6
    drawn = sorted(max(trace.y) for trace in figure.data)
    assert np.allclose(drawn, spectrum.spectral_norm.sort().values)


# ---- the live widget ----


@pytest.fixture
def widget(spectrum):
    w = spectrum.widget()
    w.comm = MagicMock()
    return w


def sent(widget):
    return [call.kwargs["data"]["state"] for call in widget.comm.send.call_args_list if "state" in call.kwargs["data"]]


def test_python_hears_the_front_end_and_is_heard(widget):
    heard = []
    widget.observe(lambda change: heard.append(change.new), names="epsilon")
    widget.set_state({"epsilon": 0.25})
    assert heard == [0.25]
    widget.index = 3
    assert {"index": 3} in sent(widget)


def test_unknown_index_is_refused(widget):
    with pytest.raises(traitlets.TraitError, match="expected a sample that is shown"):
        widget.index = 500
    assert widget.index in range(6)


def test_traits_are_what_the_picture_shows(spectrum, widget):
    first, other = widget.samples[0], widget.samples[1]
    reach = dict(zip(range(len(spectrum)), spectrum.reach.tolist(), strict=True))
    for given, taken in ((1e9, reach[first]), (-1e9, -reach[first]), (0.5 * reach[first], 0.5 * reach[first])):
        widget.epsilon = given
        assert widget.epsilon == taken
    with pytest.raises(traitlets.TraitError, match=f"direction is 17, expected one of sample {first} from 0 to 2"):
        widget.direction = 17
    with pytest.raises(traitlets.TraitError, match="epsilon is nan"):
        widget.epsilon = float("nan")
    assert (widget.direction, widget.epsilon) == (0, 0.5 * reach[first])
    widget.extent = {**widget.extent, other: (0.125, 1)}
    widget.direction, widget.epsilon = 2, reach[first]
    widget.index = other
    assert (widget.direction, widget.epsilon) == (0, 0.125), "a sample that reaches less far, with one direction"


def test_linked_views_of_different_reach_show_their_traits(spectrum):
    near, far = spectrum.widget(samples=[0]), spectrum.widget(samples=[0])
    near.extent, far.extent = {0: (0.5, 3)}, {0: (2.0, 3)}
    with_link = traitlets.link((far, "epsilon"), (near, "epsilon"))
    far.epsilon = 1.5
    assert (far.epsilon, near.epsilon) == (1.5, 0.5)
    near.epsilon = 0.25
    assert far.epsilon == 0.25
    with_link.unlink()


def test_what_the_page_may_not_have_goes_back_to_it(widget):
    first = widget.samples[0]
    reach = widget.extent[first][0]
    widget.epsilon = reach
    sent = []
    widget.send_state = lambda key=None: sent.append(key)
    widget.set_state({"epsilon": 1e9})  # nothing changes here, and the page would stay at 10⁹
    assert (widget.epsilon, sent[-1]) == (reach, ["epsilon"])
    with pytest.raises(traitlets.TraitError, match="expected a sample that is shown"):
        widget.set_state({"index": -1, "direction": 1})
    assert (widget.index, widget.direction) == (first, 0)
    assert sent[-1] == ["index", "direction"]


def test_widget_repr_has_no_address(spectrum):
    assert repr(spectrum.widget()) == repr(spectrum.widget()) == "Perturbation(6 of 6 inputs × 3 directions)"


def test_every_trait_that_the_module_reads_exists(spectrum):
    source = modules.module_source("perturbation/view.js")
    read = set(re.findall(r'model\.(?:get|set)\("(\w+)"', source)) | set(re.findall(r'this\.set\("(\w+)"', source))
    read |= set(re.findall(r'"change:(\w+)"', source))
    assert read <= set(Perturbation.class_trait_names(sync=True))
    assert read >= {"payload", "index", "direction", "epsilon", "flipped"}
    assert all(Perturbation.class_traits(sync=True)[name].help for name in read)


def test_initial_state_is_just_past_the_nearest_flip(spectrum):
    w = spectrum.widget()
    assert w.index == int(spectrum.spectral_norm.argmax())
    flips = spectrum.walk(0).flips[w.index]
    near = flips[flips.abs().argmin()]
    assert w.epsilon == pytest.approx(1.02 * float(near) if near.isfinite() else 0.5 * float(spectrum.reach[w.index]))


# ---- the bound view ----


@pytest.fixture(scope="module")
def compared():
    torch.manual_seed(0)
    return fv.compare_bounds(model(classes=6), torch.rand(5, 1, 8, 8))


def with_column(result, name, reasons=(), **changes):
    column = dataclasses.replace(result.methods[name], **changes)
    return dataclasses.replace(result, methods={**result.methods, name: column}, reasons=dict(reasons))


def numbers(result, **options):
    """The view's JSON and log₁₀ of value, low and high, by sample and method."""
    data, raw = unpacked(result.view(**options))
    start, size = data["values"]
    logs = np.frombuffer(raw[start : start + size]).reshape(len(data["samples"]), len(data["methods"]), 3)
    return data, logs, [m["name"] for m in data["methods"]]


def test_bounds_travel_in_full_precision(compared):
    data, logs, names = numbers(compared)
    exact = compared.methods["exact"].value
    order = exact.argsort(descending=True).tolist()
    assert [s["index"] for s in data["samples"]] == order
    assert names[0] == "exact"
    assert names[-8:] == ["L1", "L2", "L3", "L4", "L5", "L6", "lower-pair", "lower-trace"]
    for m, name in enumerate(names):
        expected = compared.methods[name].value[order].numpy()
        np.testing.assert_allclose(10 ** logs[:, m, 0], expected, rtol=1e-12, err_msg=name)
    assert np.isposinf(logs[:, names.index("published-whitebox"), 2]).all(), "a lower bound has no high"
    assert {c["method"] for c in data["curves"]} >= {"lanczos", "power", "published-whitebox"}
    assert compared.widget().index == order[0]
    assert compared.widget().method == "L5"
    assert not re.search(r"https?://", compared.view().html())


def test_bounds_beyond_float64_keep_their_logarithm(compared):
    huge = torch.full((5,), torch.inf, dtype=torch.float64)
    result = with_column(compared, "L5", value=huge, high=huge, log10=torch.full_like(huge, 412.5))
    _, logs, names = numbers(result)
    assert (logs[:, names.index("L5"), [0, 2]] == 412.5).all()
    assert "3.162·10⁴¹²" in result.view().still
    figure = result.plot()
    (row,) = [trace for trace in figure.data if trace.name == "L5"]
    assert min(row.x[0]) > 400


def test_rungs_without_a_value_say_why(compared):
    none = torch.full((5,), torch.nan, dtype=torch.float64)
    why = "attention <has> no bound at every input"
    result = with_column(compared, "L5", {"L5": why}, value=none, high=none, log10=none)
    data, logs, names = numbers(result)
    assert np.isnan(logs[:, names.index("L5"), 0]).all()
    assert data["methods"][names.index("L5")]["reason"] == why
    assert data["methods"][names.index("L5")]["falls"] is None
    assert result.widget().method != "L5"
    assert "attention &lt;has&gt; no bound" in result.view().still
    assert any("attention &lt;has&gt;" in note.text for note in result.plot().layout.annotations)


def test_waterfalls_travel_once_and_the_better_is_shown(compared):
    data, raw = unpacked(compared.view())
    start, size = data["layers"]["numbers"]
    gains, bounds = np.frombuffer(raw[start : start + size], np.float32).reshape(2, -1)
    np.testing.assert_allclose(bounds, [step.log10_bound for step in compared.layers], rtol=1e-6)
    assert len(gains) == len(compared.layers)
    names = [[row[0] for row in table] for table in data["tables"]]
    assert names[data["layers"]["table"]] == [step.name for step in compared.layers]
    worse = tuple(
        tuple(dataclasses.replace(s, log10_bound=s.log10_bound + 1) for s in steps) for steps in compared.local_layers
    )
    assert unpacked(dataclasses.replace(compared, local_layers=worse).view())[0]["local"] == [None] * 5


def test_thirty_two_samples_of_a_deep_network_stay_under_a_megabyte(compared):
    steps = tuple(dataclasses.replace(compared.layers[0], name=f"features.block.{i}", log10_bound=i * 0.07)
                  for i in range(430))  # fmt: skip
    torch.manual_seed(1)
    result = fv.compare_bounds(model(classes=6), torch.rand(32, 1, 8, 8))
    result = dataclasses.replace(result, layers=steps[:-1] + compared.layers[-1:], local_layers=(steps,) * 32)
    assert len(result.view().html()) < 1_000_000


def test_bound_view_knows_its_rows_and_samples(compared):
    widget = compared.widget(samples=2)
    with pytest.raises(traitlets.TraitError, match="expected one of the rows"):
        widget.method = "L9"
    with pytest.raises(traitlets.TraitError, match="expected a sample that is shown"):
        widget.index = int(compared.reference.argmin())
    with pytest.raises(ValueError, match="expected at least 1"):
        compared.view(samples=0)
    source = modules.module_source("comparison/view.js")
    read = set(re.findall(r'model\.get\("(\w+)"', source)) | set(re.findall(r'this\.set\("(\w+)"', source))
    assert read == {"payload", "index", "method", "everything"}
    assert all(Comparison.class_traits(sync=True)[name].help for name in read)


def test_bounds_as_a_plotly_figure(compared):
    figure = compared.plot()
    assert [trace.name for trace in figure.data] == [m["name"] for m in unpacked(compared.view())[0]["methods"]]
    assert figure.layout.title.text.startswith("The tightest bound, L")
    (row,) = [trace for trace in figure.data if trace.name == "L6"]
    ratio = compared.methods["L6"].value / compared.methods["exact"].value
    np.testing.assert_allclose(10 ** np.array(row.x[0], float), ratio, rtol=1e-9)


# ---- the modules' pure functions, in node ----

NODE = shutil.which("node")
FOLDER = modules.VIEWS.as_uri()


def in_node(code, **data):
    if NODE is None:
        pytest.skip("no node on this machine; the browser tests run the same functions")
    script = (
        f"import * as pixels from '{FOLDER}/kit/pixels.js'; import * as chart from '{FOLDER}/kit/chart.js';"
        f"import * as numbers from '{FOLDER}/kit/numbers.js'; import * as axes from '{FOLDER}/kit/axes.js';"
        f"import * as quantiles from '{FOLDER}/kit/quantiles.js';"
        f"import * as view from '{FOLDER}/perturbation/panel.js';"
        f"import * as waterfall from '{FOLDER}/comparison/waterfall.js';"
        f"import * as palette from '{FOLDER}/kit/palette.js';"
        f"const data = {json.dumps(data)};"
        f"console.log(JSON.stringify(await (async () => {{ {code} }})()))"
    )
    done = subprocess.run([NODE, "--input-type=module", "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("channels", [1, 3])
def test_blend_equals_numpy(channels):
    rng = np.random.default_rng(0)
    x, v = rng.integers(0, 256, 5 * channels), rng.integers(-127, 128, 5 * channels)
    out, outside = in_node(
        "const out = new Uint8ClampedArray(20);"
        "const n = pixels.blend(out, Uint8Array.from(data.x), Int8Array.from(data.v), data.step, data.channels);"
        "return [[...out], n];",
        x=x.tolist(), v=v.tolist(), step=0.7, channels=channels,
    )  # fmt: skip
    moved = (x + 255 * 0.7 / 127 * v).reshape(5, channels)
    expected = np.broadcast_to(np.clip(np.round(moved), 0, 255), (5, 3))
    assert np.abs(np.array(out).reshape(5, 4)[:, :3] - expected).max() <= 1e-9
    assert outside == ((moved < -0.5) | (moved > 255.5)).sum()


def test_diverging_map_is_centred_and_symmetric():
    ends = in_node("return [-1, -0.5, 0, 0.5, 1, -9, 9].map(palette.diverging)")
    assert min(ends[2]) > 220, "zero is nearly white"
    assert ends[0] == ends[5]
    assert ends[4] == ends[6]
    assert ends[0][2] > ends[0][0], "negative is blue"
    assert ends[4][0] > ends[4][2], "positive is red"


def test_signed_map_of_three_channels():
    out = in_node(
        "const v = Int8Array.from([3, -9, 4, -128, 0, 0]);"
        "return ['strongest', 'mean', 1].map(c => [...pixels.signedMap(v, 3, c)])"
    )
    assert out == [[-9, -128], [-1, -128], [-9, -128]]


def test_curves_pass_through_evaluated_points_and_keep_the_quadratic_start():
    out = in_node(
        "const d = {eps: [-1, 0, 1], value: 8, kl: [3, 0, 5], outcomes: [0, 0, 1], shown: [0, 1],"
        " logp: [[-1, -0.5, -2], [-0.4587, -0.9327, -0.1454]]};"
        "return [-1, 0, 1, 0.001, -0.001, 0.9].map(e => view.curveAt(d, e, true))"
    )
    assert [o["kl"] for o in out[:3]] == pytest.approx([3, 0, 5])
    assert [o["outcome"] for o in out] == [0, 0, 1, 0, 0, 1]
    assert [round(np.exp(o["logp"]).sum(), 4) for o in out] == [1] * 6
    assert out[3]["kl"] == pytest.approx(5e-6, rel=0.01), "the ratio to ½ε²λ is carried inward, not the chord"
    assert out[4]["kl"] == pytest.approx(3e-6, rel=0.01)


def test_kl_that_spans_decades_is_interpolated_by_its_logarithm():
    (kl,) = in_node(
        "const d = {eps: [1, 2], value: 2, kl: [1e-20, 4e-10], outcomes: [0, 0], shown: [0], logp: [[0, 0]]};"
        "return [view.curveAt(d, 1.5, true).kl]"
    )
    assert kl == pytest.approx(2.25 * 1e-15, rel=1e-6)


def test_nodes_are_pythons(spectrum):
    even, uneven = spectrum.walk(0), walk(spectrum, 0, both_sides((0.25, 0.5, 1.0), spectrum.reach), with_flips=True)
    rows = [(walked, i, _ends(walked, i)) for walked in (even, uneven) for i in range(6)]
    assert {len(at) for *_, at in rows} == {2, 9}
    said = [[float(spectrum.reach[i]), at, walked.epsilon.shape[1] - len(at)] for walked, i, at in rows]
    found = in_node("return data.rows.map(([reach, at, count]) => view.nodes(reach, at, count))", rows=said)
    for there, (walked, i, at), (reach, *_) in zip(found, rows, said, strict=True):
        assert there == pytest.approx(walked.epsilon[i].tolist(), rel=1e-12)
        assert nodes(reach, {"kl": walked.kl[i].tolist(), "at": at}) == pytest.approx(there, rel=1e-12)


def test_a_log_axis_has_two_marks_at_least():
    axes = [[low, low + span] for low in (-7.3, -0.31, 0.02, 4.9) for span in (0.4, 0.7, 1.0, 1.6, 1.99, 2.0, 2.7, 9)]
    found = in_node("return data.axes.map((a) => axes.decadeTicks(a, 90, 46))", axes=axes)
    for (low, high), marks in zip(axes, found, strict=True):
        assert len(marks) > 1
        assert all(low <= at <= high for at, _ in marks)


def test_labels_never_stand_on_each_other():
    lines = [
        {"points": [[0, 0.1 + 0.01 * i], [1, 0.12]], "color": "red", "width": 1, "label": f"a long name {i}"}
        for i in range(8)
    ]
    marks = [{"x": x, "label": "→ Golden Retriever"} for x in (0.4, 0.41, 0.99)]
    svg = in_node(
        "return chart.lineChart({width: 420, height: 170, x: [0, 1], y: [0, 1], yTicks: [0, 1], xLabel: 'ε', "
        "label: '', lines: data.lines, marks: data.marks})",
        lines=lines,
        marks=marks,
    )
    found = re.findall(
        r'<text class="(direct|tick)" x="([-\d.]+)" y="([-\d.]+)"(?: text-anchor="(\w+)")?>(.*?)</text>', svg
    )
    boxes = []
    for _, x, y, anchor, inner in found:
        wide = 6 * len(re.sub(r"<.*?>", "", inner))
        left = float(x) - {"middle": wide / 2, "end": wide}.get(anchor, 0)
        boxes.append((left, left + wide, float(y), inner))
    labels = [b for b in boxes if "name" in b[3] or "Golden" in b[3]]
    assert len(labels) >= 8
    for i, a in enumerate(labels):
        for b in labels[:i]:
            assert abs(a[2] - b[2]) >= 12 or a[0] >= b[1] or b[0] >= a[1], (a, b)


def test_log_axis_breaks_where_bounds_are_far_and_stays_in_order():
    said = in_node(
        "const axis = axes.brokenAxis(data.logs, data.truth, [0, 500]);"
        "return [axis.zones, data.logs.map(axis.at), axis.at(1e9), axis.at(NaN), axis.at(30)]",
        logs=[-1, 0, 0.5, 2, 3, 58, 60, 61], truth=0,
    )  # fmt: skip
    zones, places, beyond, nothing, between = said
    assert len(zones) == 2
    assert places == sorted(places)
    assert min(b - a for a, b in itertools.pairwise(places)) > 10, "rungs near each other stay apart"
    assert places[0] > 0
    assert places[-1] < 500
    assert places[4] < between < places[5]
    assert (beyond, nothing) == (500, 0)
    assert len(in_node("return axes.brokenAxis([0, 3, 8], 0, [0, 500]).zones")) == 1
    assert len(in_node("return axes.brokenAxis([-20, 0, 30], 0, [0, 500]).zones")) == 3
    assert len(in_node("return axes.brokenAxis([], NaN, [0, 500]).zones")) == 1


def test_decade_ticks_are_few_and_round():
    assert in_node("return axes.decadeTicks([-1.5, 3.4], 500).map(t => t[1])") == ["0.1", "1", "10", "100", "1000"]
    assert in_node("return axes.decadeTicks([57, 62], 120).map(t => t[1])") == ["10⁵⁸", "10⁶⁰", "10⁶²"]
    assert in_node("return axes.decadeTicks([0, 0.9], 150).map(t => t[1])") == ["1", "2", "5"]


def test_labels_spread_within_their_chart():
    out = in_node("return axes.spread([90, 91, 10, 92], 14, [0, 100])")
    assert out[2] == 10
    assert out[3] == 100
    assert sorted(out) == [10, 72, 86, 100]


def test_quartiles_are_numpys():
    values = [3.0, 1.0, 10.0, 4.0, 2.5, 7.0]
    expected = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    assert in_node("return quantiles.quartiles([...data.v, NaN])", v=values) == pytest.approx(expected)
    assert in_node("return quantiles.quartiles([NaN])") is None


def test_waterfall_ends_at_the_rung():
    steps = in_node(
        "const rows = [['a', 'linear', ''], ['add', 'addition', '']];"
        "const steps = waterfall.fall(rows, [0.5, NaN], [0.5, 0.8], 2.1, 'c', {name: 'softmax', kind: ''});"
        "return [steps, waterfall.costliest(steps).map(s => s.name), steps.map(waterfall.matters)]"
    )
    (a, add, softmax), costly, matters = steps
    assert (a["from"], a["to"], a["gain"]) == (0, 1, 1)
    assert add["joins"]
    assert softmax["to"] == 2.1
    assert softmax["from"] == 1.6
    assert costly == ["a", "softmax"]
    assert matters == [True, True, True]


def test_layers_are_called_in_full():
    said = in_node(
        "return [{name: '3', kind: 'linear'}, {name: 'features.conv1', kind: 'convolution'},"
        "{name: 'softmax', last: true}]"
        ".map(waterfall.calledInFull)"
    )
    assert said == ["layer 3 (linear)", "layer features.conv1", "the softmax"]
