"""The margin view without a browser: its payload and HTML, the plotly figures, the live widget on a mock comm."""

import base64
import json
import re
import threading
import time
import warnings
import zlib
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch
import traitlets

import fimviz as fv
from fimviz.margins import simplex
from fimviz.views.kit import module as modules
from fimviz.views.kit.latest import Latest
from fimviz.views.margins.live import Margins
from tests.views.test_views import in_node


def unpacked(packed):
    raw = zlib.decompress(base64.b64decode(packed))
    end = 4 + int.from_bytes(raw[:4], "little")
    return json.loads(raw[4:end]), raw[end:]


@pytest.fixture(scope="module")
def traces():
    images, labels = fv.zoo.digits()
    labels = labels[:5].clone()
    labels[2] = (labels[2] + 1) % 10
    return fv.trace_margins(fv.zoo.load("digits-mlp"), images[:5], labels, damping=1.0, verify=False)


def far_net(classes=3):
    """No image within [0, 1] changes the class."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, classes))
    model[1].bias.data[0] = 60
    return model


def test_payload_holds_the_numbers_of_the_traces(traces):
    figure = traces.view()
    data, blob = unpacked(figure.state["payload"])
    assert [t["id"] for t in data["traces"]] == list(range(45))
    for t in data["traces"]:
        i, path = t["id"], traces.paths[t["id"]]
        for name in ("length", "bound", "distance", "l2"):
            assert t[name] == float(getattr(traces, name)[i])
        assert (t["source"], t["target"], t["hit"]) == tuple(
            int(getattr(traces, n)[i]) for n in ("source", "target", "hit")
        )
        assert t["fr"] == path.fr.tolist()
        p = np.array(t["p"])
        assert p.shape == (len(t["shown"]), len(path.fr))
        assert np.allclose(p.sum(0), 1, atol=1e-4)
        assert np.allclose(p[t["shown"].index(t["source"])], path.probabilities[:, t["source"]], rtol=1e-5)
        assert t["norm"][-1] is None, "no step leaves the last point"
        assert t["kept"][0] == 0
        assert t["kept"][-1] == len(path.pace) == len(t["pace"])
        for point, (offset, length) in zip(t["kept"][1:], t["frames"], strict=True):
            d = np.frombuffer(blob[offset : offset + length], np.int8).reshape(8, 8) * t["scale"] / 127
            true = (path.images[point].double() - traces.images[t["sample"], 0].double()).squeeze().numpy()
            assert np.abs(d - true).max() <= t["scale"] / 254 + 1e-3
    matrix = data["matrix"]
    assert np.array(matrix["counts"]).sum() == 45
    assert np.array(matrix["shielded"]).sum() == int((traces.hit != traces.target).sum()) > 0
    assert [s["label"] == s["prediction"] for s in data["samples"]].count(False) == 1


def test_matrix_of_rightly_classified_samples_is_shieldings(traces):
    right = fv.trace_margins(traces.net, traces.images[:2], traces.labels[:2], damping=1.0, verify=False)
    data, _ = unpacked(right.view().state["payload"])
    assert data["matrix"]["counts"] == right.shielding(resamples=10).matrix.tolist()


def test_html_is_deterministic_small_and_needs_no_network(traces):
    html = traces.view().html()
    assert html == traces.view().html()
    assert not re.search(r"https?://", html)
    bundle = traces._repr_mimebundle_()
    assert set(bundle) == {"text/html", "text/plain"}
    assert len(html) < 400_000


def test_names_are_escaped():
    names = ["</script><script>alert(1)</script>", "<!--", "'\"&"]
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 3))
    t = fv.trace_margins(fv.Classifier(model, classes=names), torch.rand(2, 1, 8, 8), verify=False)
    html = t.view().html()
    assert html.count("<script") == html.count("</script>") == 2
    assert "<!--" not in html
    for plot in (t.plot(), t.plot(trace=0), t.shielding(resamples=10).plot()):
        assert "<script" not in json.dumps([trace.to_plotly_json() for trace in plot.data], default=str)


def test_cifar_size_stays_under_a_megabyte():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10))
    t = fv.trace_margins(model, torch.rand(32, 3, 32, 32), targets="runner-up", verify=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(t.view(samples=32).html().encode()) < 1_000_000
        assert len(t.view().html().encode()) < 1_000_000


def test_samples_can_be_chosen(traces):
    for samples, expected in (([1, 3], {1, 3}), (np.int64(2), None)):
        data, _ = unpacked(traces.view(samples=samples).state["payload"])
        shown = {s["index"] for s in data["samples"]}
        assert shown == {t["sample"] for t in data["traces"]}
        assert shown == expected or len(shown) == 2
        assert np.array(data["matrix"]["counts"]).sum() == 45, "the matrix counts all"
    for wrong in (0, [7], [], "3", 2.5):
        with pytest.raises((ValueError, TypeError), match=r"samples is|integer"):
            traces.view(samples=wrong)
    with pytest.raises(TypeError, match="did you mean samples"):
        traces.view(smples=3)
    with pytest.raises(ValueError, match="max_bytes"):
        traces.view(max_bytes=10).html()


def test_a_sample_with_many_targets_shows_the_nearest():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 40))
    t = fv.trace_margins(model, torch.rand(1, 1, 4, 4), verify=False, damping=1.0)
    data, _ = unpacked(t.view().state["payload"])
    assert len(data["traces"]) == 24
    assert data["samples"][0]["traced"] == 39
    kept = [q["id"] for q in data["traces"]]
    assert t.length[kept].max() <= t.length.sort().values[23]
    assert all(len(q["shown"]) <= 9 and q["shown"][-1] == -1 for q in data["traces"])
    assert all({q["source"], q["target"], q["hit"]} <= set(q["shown"]) for q in data["traces"])


def test_without_images_the_two_ends_are_shown(traces):
    t = fv.trace_margins(traces.net, traces.images[:1], keep_images=False, verify=False)
    data, blob = unpacked(t.view().state["payload"])
    q = data["traces"][3]
    assert q["blended"], "what lies between its ends is said to be no image of the path"
    assert q["kept"] == [0, int(t.steps[3])]
    offset, length = q["frames"][0]
    d = np.frombuffer(blob[offset : offset + length], np.int8).reshape(8, 8) * q["scale"] / 127
    assert np.abs(d - (t.ends[3] - t.images[0])[0].numpy()).max() <= q["scale"] / 254 + 1e-6


def test_traces_that_end_elsewhere_than_at_a_class():
    t = fv.trace_margins(far_net(), torch.rand(2, 1, 8, 8), verify=False)
    assert set(t.status) == {"stalled"}
    data, _ = unpacked(t.view().state["payload"])
    assert data["matrix"]["columns"][-1] == -1
    assert data["points"][0]["shielded"] is None
    assert "stalled" in t.view().html()
    assert "0 of 4 paths" in t.plot().layout.title.text
    t.shielding(resamples=10).plot()


# ---- plotly figures ----


def test_figures(traces):
    figure = traces.plot()
    assert sum(len(d.x) for d in figure.data[1:]) == 45
    path = traces.plot(trace=4)
    assert path.data[0].x[-1] == pytest.approx(float(traces.length[4]))
    with pytest.raises(ValueError, match="expected a place"):
        traces.plot(trace=45)
    shielding = traces.shielding(resamples=50)
    figure = shielding.plot()
    assert np.nansum(np.array(figure.data[0].z, dtype=float)) == shielding.successful
    assert "τ = 1" in figure.layout.title.text
    assert list(figure.data[2].y) == sorted(figure.data[2].y, reverse=True), "the most robust class first"


def test_curve_figure_and_view(traces):
    curve = fv.shielding_curve(
        traces.net, traces.images[:2], traces.labels[:2], dampings=(0.01, 1.0), steps=(0.2, 0.4), resamples=20
    )
    figure = curve.plot()
    assert figure.layout.xaxis.type == "log"
    assert [len(d.x) for d in figure.data] == [2, 2]
    data, _ = unpacked(curve.view().state["payload"])
    assert data["curve"]
    assert len(data["points"]) == 4
    assert curve.points[0].view().state["trace"] in range(18)
    assert not any(q["blended"] for q in data["traces"]), "the path that is drawn is the one that was traced"
    assert any(path.shares is not None for path in curve.points[0].traces.paths)
    assert all(path.shares is None for point in curve.points[1:] for path in point.traces.paths)


# ---- the module's pure functions, in node ----


def in_paths(code, **data):
    folder = modules.VIEWS.as_uri()
    return in_node(f"const paths = await import('{folder}/margins/paths.js'); {code}", **data)


def test_javascripts_geodesic_is_pythons():
    p, q = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.15, 0.75]]).double()
    for share in (0.0, 0.3, 1.0):
        expected = simplex.geodesic(p.log(), q.log(), share).exp()
        found = in_paths("return paths.onGeodesic(data.p, data.q, data.t)", p=p.tolist(), q=q.tolist(), t=share)
        assert found == pytest.approx(expected.tolist(), abs=1e-12)


def test_javascripts_floor_has_the_closed_forms_length():
    p = torch.tensor([0.7, 0.2, 0.1]).double()
    way = torch.tensor(in_paths("return paths.floorPath(data.p, 0, 1)", p=p.tolist())).double()
    assert way[-1, 0] == pytest.approx(float(way[-1, 1]))
    length = simplex.distance(way[:-1].log(), way[1:].log()).sum()
    bound = simplex.boundary_distance(p.log(), torch.tensor(0), torch.tensor(1))
    assert float(length) == pytest.approx(float(bound), abs=1e-7)


def test_place_on_a_path():
    trace = {"fr": [0, 0.5, 0.5, 1.5], "p": [[1, 0.6, 0.6, 0.4], [0, 0.4, 0.4, 0.6]], "kept": [0, 3]}
    at = in_paths(
        "return [0, 0.25, 0.5, 1, 1.5, 9].map(s => paths.pathAt(data.trace, s)).map(a => [a.step, a.share])",
        trace=trace,
    )
    assert at == [[0, 0], [0, 0.5], [2, 0], [2, 0.5], [2, 1], [2, 1]]
    assert in_paths("return paths.frameAt(data.trace, 2, 0.5)", trace=trace) == [0, pytest.approx(2.5 / 3)]


# ---- the live widget ----


@pytest.fixture
def widget(traces):
    w = traces.widget(samples=2)
    w.comm = MagicMock()
    yield w
    w._latest.stop()
    assert w._latest.wait(30)


def ask(widget, **content):
    """As the front end's model.send does."""
    widget._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})


def answers(widget):
    calls = [call.kwargs["data"] for call in widget.comm.send.call_args_list]
    return [data["content"] for data in calls if data.get("method") == "custom"]


SETTINGS = {"step": 0.2, "damping": 0.01, "trust_region": 0.1}


def test_python_hears_the_front_end(widget):
    heard = []
    widget.observe(lambda change: heard.append(change.new), names="position")
    widget.set_state({"position": 0.25})
    assert heard == [0.25]
    assert widget.live
    with pytest.raises(traitlets.TraitError, match="expected one that is shown"):
        widget.trace = 500
    assert repr(widget) == "Margins(18 of 45 traces, 2 of 5 inputs)"


def test_traces_again_as_asked(widget, traces):
    last = max(widget.shown)
    ask(widget, kind="trace", id=1, sample=0, target=3, **{**SETTINGS, "damping": 0.05})
    assert widget._latest.wait(60)
    (answer,) = [a for a in answers(widget) if a["kind"] != "progress"]
    assert (answer["kind"], answer["id"]) == ("traced", 1)
    trace = unpacked(answer["payload"])[0]["trace"]
    expected = fv.trace_margins(traces.net, traces.images[:1], targets=[3], damping=0.05, verify=False)
    assert trace["length"] == float(widget.retraced.length[0])
    assert trace["length"] == pytest.approx(
        float(expected.length[0]), rel=1e-5
    )  # copied weights lie elsewhere in memory
    assert trace["settings"] == {"method": "natural", **SETTINGS, "damping": 0.05}
    assert trace["id"] == last + 1
    widget.set_state({"trace": last + 1})
    assert widget.trace == last + 1


def test_settings_are_traits_that_trace_again(widget, traces):
    first = widget.trace
    own = widget.made[first]
    other = next(c for c in range(10) if c not in (own["target"], int(traces.source[first])))
    widget.damping, widget.target = 0.05, other
    assert widget.wait(60)
    assert widget.trace > max(traces.sample.tolist())
    assert widget.made[widget.trace] == {**own, "damping": 0.05, "target": other}
    assert (widget.retraced.settings.damping, int(widget.retraced.target[0])) == (0.05, other)
    assert widget.position == float(widget.retraced.length[0])
    kinds = [a["kind"] for a in answers(widget) if a["kind"] not in ("progress", "stopped")]
    assert kinds[0] == "working"
    assert kinds[-1] == "traced"
    made, heard = widget.trace, len(answers(widget))
    widget.trace = first  # its settings come with it
    assert {**own, **{name: getattr(widget, name) for name in (*SETTINGS, "target")}} == own
    with widget.hold_trait_notifications():
        widget.damping, widget.target = 0.05, other
    assert widget.trace == made, "a trace that is there is opened, not made anew"
    assert widget.wait(60)
    assert len(answers(widget)) == heard


def test_traits_of_a_path_are_what_is_shown(widget, traces):
    end, own = widget.lengths[widget.trace], int(traces.source[widget.trace])
    for given, taken in ((9.0, end), (-1.0, 0.0), (end / 2, end / 2)):
        widget.position = given
        assert widget.position == taken
    wrongs = [("step", 0.0), ("damping", float("inf")), ("trust_region", -1.0), ("target", own), ("target", 10)]
    for name, wrong in wrongs:
        with pytest.raises(traitlets.TraitError, match=f"{name} is"):
            setattr(widget, name, wrong)
    assert widget.wait(1)
    assert widget.retraced is None


def test_the_latest_request_wins(widget, traces):
    started, go_on = threading.Event(), threading.Event()
    own = widget._retrace

    def slow(content, check):
        if content["id"] == 1:
            started.set()
            go_on.wait(30)
        own(content, check)

    widget._retrace = slow
    for i in range(1, 6):
        ask(widget, kind="trace", id=i, sample=0, target=3, **SETTINGS)
        assert started.wait(30)
    go_on.set()
    assert widget._latest.wait(60)
    kinds = [(a["kind"], a["id"]) for a in answers(widget) if a["kind"] != "progress"]
    assert kinds == [("stopped", 1), ("traced", 5)]


def test_a_running_trace_is_stopped_within_a_step(widget, traces):
    reached, steps = threading.Event(), []
    own = widget._ticker

    def ticker(asked, check):
        tick = own(asked, check)

        def slow(done, total):
            steps.append(done)
            reached.set()
            time.sleep(0.05)
            tick(done, total)

        return slow

    widget._ticker = ticker
    ask(widget, kind="trace", id=1, sample=0, target=3, **{**SETTINGS, "step": 0.001})
    assert reached.wait(30)
    ask(widget, kind="stop")
    assert widget._latest.wait(30)
    assert len(steps) < 20
    assert [a["kind"] for a in answers(widget) if a["kind"] != "progress"] == ["stopped"]
    assert widget.retraced is None
    assert traces.net.model.training is False


def test_errors_reach_the_page(widget, traces):
    own = int(traces.source[0])
    for i, wrong in enumerate(
        ({"target": own}, {"target": 99}, {"sample": 99}, {"damping": -1}, {"step": "fast"}, {"kind": "dance"})
    ):
        ask(widget, **{"kind": "trace", "id": i, "sample": 0, "target": 3, **SETTINGS, **wrong})
        assert widget._latest.wait(60)
        last = answers(widget)[-1]
        assert (last["kind"], last["id"]) == ("failed", i)
        assert len(last["message"]) > 10
    ask(widget, kind="trace", id=9, sample=0, target=3, **SETTINGS)
    assert widget._latest.wait(60)
    assert answers(widget)[-1]["kind"] == "traced", "the view lives on"


def test_curve_comes_point_by_point(widget):
    ask(widget, kind="curve", id=1, step=0.4, trust_region=0.2)
    assert widget._latest.wait(120)
    curves = [a for a in answers(widget) if a["kind"] == "curve"]
    assert [len(a["points"]) for a in curves] == [1, 2, 3, 4, 5]
    assert curves[-1]["done"] == curves[-1]["total"] == 5
    assert all(p["step"] == 0.4 for p in curves[-1]["points"])


def test_latest_lets_go_of_what_waits():
    latest, done, begun, hold = Latest(), [], threading.Event(), threading.Event()
    latest.ask(lambda check: (begun.set(), hold.wait(10), done.append("first")))
    assert begun.wait(10)
    for name in "abc":
        latest.ask(lambda check, name=name: done.append(name))
    hold.set()
    assert latest.wait(10)
    assert done == ["first", "c"]


def test_every_trait_that_the_module_reads_exists():
    source = modules.module_source("margins/view.js")
    read = set(re.findall(r'model\.(?:get|set)\("(\w+)"', source)) | set(re.findall(r'this\.set\("(\w+)"', source))
    read |= set(re.findall(r'"change:(\w+)"', source))
    assert read <= set(Margins.class_trait_names(sync=True))
    assert read >= {"payload", "trace", "position", "live"}
    assert all(Margins.class_traits(sync=True)[name].help for name in read)


def test_progress_may_stop_for_good(traces):
    class EnoughError(Exception):
        pass

    calls = []

    def progress(done, total):
        calls.append((done, total))
        if len(calls) == 3:
            raise EnoughError

    with pytest.raises(EnoughError):
        fv.trace_margins(traces.net, traces.images[:1], progress=progress)
    assert len(calls) == 3
    assert {total for _, total in calls} == {9}


def test_requests_in_a_real_kernel():
    """Answers leave the view's own thread, while a cell runs."""
    client_module = pytest.importorskip("jupyter_client.manager")
    manager, client = client_module.start_new_kernel(kernel_name="python3")

    def heard(code):
        asked = client.execute(code)
        while True:
            message = client.get_iopub_msg(timeout=120)
            yield message
            idle = message["content"].get("execution_state") == "idle"
            if idle and message["parent_header"].get("msg_id") == asked:
                return

    try:
        setup = "import time, fimviz as fv; x, y = fv.zoo.digits(); net = fv.zoo.load('digits-mlp')"
        show = "w = fv.trace_margins(net, x[:1], targets=[3], verify=False).widget(); w"
        opened = [m["content"] for m in heard(f"{setup}; {show}") if m["msg_type"] == "comm_open"]
        (comm,) = [c["comm_id"] for c in opened if c["data"]["state"].get("_model_module") == "anywidget"]
        content = {"kind": "trace", "id": 7, "sample": 0, "target": 5, **SETTINGS}
        request = {"comm_id": comm, "data": {"method": "custom", "content": content}}
        client.shell_channel.send(client.session.msg("comm_msg", request))
        seen = [m["content"]["data"] for m in heard("time.sleep(3)") if m["msg_type"] == "comm_msg"]
        answer = next(s["content"] for s in seen if s.get("content", {}).get("kind") == "traced")
        assert answer["id"] == 7
        assert unpacked(answer["payload"])[0]["trace"]["target"] == 5
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def test_it_opens_on_a_path_that_counts_and_says_which_do(traces):
    figure = traces.view()
    assert bool(traces.correct[figure.state["trace"]])
    data = unpacked(figure.state["payload"])[0]
    counted, table = data["counted"], traces.shielding(resamples=10)
    assert counted["left"] == table.left_out == 9
    assert counted["paths"] == table.successful
    assert counted["shielded"] / counted["paths"] == pytest.approx(table.shielded.value)
    assert counted["shielded"] + counted["leftShielded"] == np.array(data["matrix"]["shielded"]).sum()
    for t in data["traces"]:
        assert t["pace"] == list(traces.paths[t["id"]].pace)
