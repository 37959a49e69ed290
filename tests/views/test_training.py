"""The training view without a browser: what travels, what a live chart hears, and text that is safe."""

import base64
import json
import zlib

import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.training import TrainingHistory


def record(step, **values):
    known = dict.fromkeys(("accuracy", "loss", "train_loss", "confidence", "cckl", "mean_frobenius"), 0.5)
    known |= dict.fromkeys(("mean_spectral_norm", "median_spectral_norm", "mean_trace"), 0.25)
    return {"step": step, **known, "forwards": 1, "vjps": 9, "seconds": 0.1, "note": None} | values


def unpacked(payload):
    raw = zlib.decompress(base64.b64decode(payload))
    return json.loads(raw[4 : 4 + int.from_bytes(raw[:4], "little")])


@pytest.fixture
def monitor():
    torch.manual_seed(0)
    return fv.FisherMonitor(nn.Linear(4, 3), torch.rand(9, 4), [0, 1, 2] * 3, name="a run")


def test_live_chart_grows_with_each_record(monitor):
    widget = monitor.widget()
    assert unpacked(widget.payload)["title"] == "Waiting for the first record of a run"
    heard = []
    widget.observe(heard.append, "payload")
    monitor.record(0)
    monitor.record(7)
    assert len(heard) == 2
    (run,) = unpacked(widget.payload)["runs"]
    assert run["step"] == [0, 7]
    assert run["mean_frobenius"] == monitor.history.frame.mean_frobenius.tolist()
    assert run["note"] == [None, None]
    assert "0x" not in repr(widget)
    widget.step, widget.quantity = 0, "mean_trace"
    with pytest.raises(Exception, match="mean_trance"):
        widget.quantity = "mean_trance"
    widget.close()
    monitor.record(8)  # a closed chart does not stop the training


def test_long_run_is_thinned_and_says_so():
    history = TrainingHistory({"long": tuple(record(i) for i in range(10_000))}, {"long": 8})
    figure = history.view()
    (run,) = unpacked(figure.state["payload"])["runs"]
    assert len(run["step"]) <= 401
    assert (run["step"][0], run["step"][-1], run["records"]) == (0, 9999, 10_000)
    assert len(figure.state["payload"]) < 20_000
    assert len(history.frame) == 10_000


def test_titles_state_what_is_seen():
    def title(**runs):
        return unpacked(TrainingHistory(runs, dict.fromkeys(runs, 8)).view().state["payload"])["title"]

    first, last = record(0, accuracy=0.1, mean_frobenius=0.01), record(40, accuracy=0.9, mean_frobenius=1.2)
    grown = "From step 0 to 40 accuracy goes from 0.1 to 0.9, and mean ‖F‖_F grows 120-fold"
    assert title(a=(first, last)) == grown
    assert title(a=(first | {"mean_frobenius": 1e-9}, last)).endswith("grows by 9.1 decades")
    assert title(a=(last | {"step": 0}, first | {"step": 9})).endswith("falls 120-fold")
    assert title(a=(first,)) == "a at step 0: accuracy 0.1"
    lost = record(40, accuracy=None, mean_frobenius=None, note="3 of 8 images have NaN or infinite logits")
    assert title(a=(first, lost)) == "At step 40: 3 of 8 images have NaN or infinite logits"
    assert title(a=(first, last), b=(first, first | {"step": 40})) == (
        "Mean ‖F‖_F of a is 120 times that of b in the end, at accuracies of 0.9 and 0.1"
    )
    assert title(a=(last,), b=(lost,)) == "1 of 2 runs have a Fisher information to compare"


def test_page_is_safe_and_the_same_every_time():
    name = "</script><b>&run"
    history = TrainingHistory({name: (record(0), record(5, mean_frobenius=None, note="no <b>number</b>"))}, {name: 8})
    html = history.view().html()
    assert html == history.view().html()
    assert html.count("<script") == html.count("</script>") == 2
    assert "<b>&run" not in html
    assert "https://" not in html
    assert {trace.y[0] for trace in history.plot().data} == {0.5}
    assert "<b>" not in history.plot().data[0].name
