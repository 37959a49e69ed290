"""The views without a browser: HTML that is safe, small and the same every time; the live widget on a mock comm."""

import base64
import dataclasses
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
from fimviz.views import figure as host
from fimviz.views.perturbation import Perturbation


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
    assert not re.search(r"https?://", html)
    assert 'from "./' not in json.loads(payload_script(html))["module"], "helpers are inlined"


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
    noise = fv.spectrum(model(3 * 256 * 256, 3), torch.rand(20, 3, 256, 256), k=2)
    with pytest.warns(UserWarning, match=r"this view takes \d"):
        noise.view(samples=20, directions=2).html()


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


def test_widget_repr_has_no_address(spectrum):
    assert repr(spectrum.widget()) == repr(spectrum.widget()) == "Perturbation(6 of 6 inputs × 3 directions)"


def test_every_trait_that_the_module_reads_exists(spectrum):
    source = host.module_source("perturbation")
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


# ---- the modules' pure functions, in node ----

NODE = shutil.which("node")


def in_node(code, **data):
    if NODE is None:
        pytest.skip("no node on this machine; the browser tests run the same functions")
    folder = host._HERE.as_uri()
    script = (
        f"import * as pixels from '{folder}/pixels.js'; import * as chart from '{folder}/chart.js';"
        f"import * as view from '{folder}/perturbation.js'; const data = {json.dumps(data)};"
        f"console.log(JSON.stringify(await (async () => {{ {code} }})()))"
    )
    done = subprocess.run([NODE, "--input-type=module", "-e", script], capture_output=True, text=True, check=False)
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
    ends = in_node("return [-1, -0.5, 0, 0.5, 1, -9, 9].map(pixels.diverging)")
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


def test_numbers_as_text():
    cases = {
        0: "0",
        0.5: "0.5",
        127.3: "127",
        2400: "2400",
        1.234e-8: "1.23×10⁻⁸",
        -3.2e7: "−3.20×10⁷",
        0.0123: "0.0123",
    }
    assert in_node("return data.v.map(v => chart.number(v))", v=list(cases)) == list(cases.values())
    said = in_node("return [[1 - 2e-7], [0.61], [3e-9], [1, 2e-30], [1, 0]].map(p => chart.probability(...p))")
    assert said == ["1 − 2.0×10⁻⁷", "0.610", "3.0×10⁻⁹", "1 − 2.0×10⁻³⁰", "1.000"]


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
    walk = spectrum.walk(0)
    for i in range(6):
        reach = float(spectrum.reach[i])
        at = [max(float(walk.flips[i, 0]), -reach), min(float(walk.flips[i, 1]), reach)]
        assert in_node("return view.nodes(data.reach, data.at)", reach=reach, at=at) == pytest.approx(
            walk.epsilon[i].tolist(), rel=1e-12
        )


def test_colours_do_not_collide():
    out = in_node("return chart.classColors([0, 8, 16, 3, 11, -1])")
    assert len(set(out)) == 6
    assert in_node("return chart.classColors([3])")[0] == in_node("return chart.classColors([0, 1, 2, 3])")[3]
