"""The monitor of training: what it records, that it leaves no trace, and a log that survives being killed."""

import copy
import json
import math
import pickle
import signal
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import fimviz as fv
from fimviz.training import TrainingHistory, read_log
from fimviz.training.measure import cross_category


def network(seed=0):
    """Everything that a pass could leave a trace in: running statistics, dropout, a counter that replaces a buffer."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(216, 10)
    )


@pytest.fixture(scope="module")
def probe():
    images, labels = fv.zoo.digits()
    return images[:24], labels[:24]


def trained(watch=None, steps=12):
    """Weights after a short training on random batches, and the next random number."""
    net = network()
    images, labels = fv.zoo.digits("train")
    monitor = watch(net) if watch else lambda step, loss=None: None
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    for step in range(steps):
        batch = torch.randint(len(images), (32,))
        loss = cross_entropy(net.train()(images[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        monitor(step, loss=loss)  # between the gradients and their use, where a trace would do most harm
        optimizer.step()
    return net.state_dict(), torch.rand(3), monitor


def test_training_with_a_monitor_ends_in_the_same_bits(probe, tmp_path):
    plain, after, _ = trained()
    watched, then, monitor = trained(lambda net: fv.FisherMonitor(net, *probe, every=3, log=tmp_path / "a.jsonl"))
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    assert torch.equal(after, then), "the random stream has moved"
    assert monitor.history.frame.step.tolist() == [0, 3, 6, 9]
    assert monitor.history.frame.train_loss.notna().all()


def test_model_is_left_as_it_came(probe):
    net = network().train()
    net[0].eval()
    net[0].weight.requires_grad_(False)
    net[5].weight.grad = torch.full_like(net[5].weight, 7.0)
    before = copy.deepcopy(net.state_dict())
    with torch.no_grad():
        fv.FisherMonitor(net, *probe).record(0)
    assert [m.training for m in net.children()] == [False, True, True, True, True, True]
    assert not net[0].weight.requires_grad
    assert net[5].weight.requires_grad
    assert (net[5].weight.grad == 7).all()
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_record_against_float64(probe):
    """Each number against its definition: dense F from float64 Jacobians, CCKL as a loop over pairs."""
    images, labels = probe
    net = network().train()
    record = fv.FisherMonitor(net, images, labels).record(5, loss=torch.tensor(0.25))
    exact = copy.deepcopy(net).double().eval()
    eigenvalues, log_p = [], []
    for x in images.double():
        jacobian = torch.func.jacrev(lambda one: exact(one[None])[0])(x).flatten(1)
        logp = exact(x[None])[0].log_softmax(0).detach()
        p = logp.exp()
        fisher = jacobian.T @ (torch.diag(p) - torch.outer(p, p)) @ jacobian
        eigenvalues.append(torch.linalg.eigvalsh(fisher.detach()))
        log_p.append(logp)
    eigenvalues, log_p = torch.stack(eigenvalues), torch.stack(log_p)
    pairs = [
        float((a.exp() * (a - b)).sum())
        for i, a in enumerate(log_p)
        for j, b in enumerate(log_p)
        if labels[i] != labels[j]
    ]
    expected = {
        "step": 5,
        "accuracy": float((log_p.argmax(1) == labels).double().mean()),
        "loss": float(cross_entropy(log_p, labels)),
        "train_loss": 0.25,
        "confidence": float(log_p.exp().amax(1).mean()),
        "cckl": math.fsum(pairs) / len(pairs),
        "mean_frobenius": float(eigenvalues.norm(dim=1).mean()),
        "mean_spectral_norm": float(eigenvalues[:, -1].mean()),
        "median_spectral_norm": float(eigenvalues[:, -1].quantile(0.5)),
        "mean_trace": float(eigenvalues.sum(1).mean()),
        "forwards": 2,
        "vjps": 10,
    }
    for name, value in expected.items():
        assert record[name] == pytest.approx(value, rel=2e-5), name
    assert record["note"] is None


def test_cckl_in_closed_form():
    log_p = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3]], dtype=torch.float64).log()

    def kl(i, j):
        return float((log_p[i].exp() * (log_p[i] - log_p[j])).sum())

    # the images 0 and 2 are of one class
    mean = (kl(0, 1) + kl(1, 0) + kl(2, 1) + kl(1, 2)) / 4
    assert cross_category(log_p, torch.tensor([0, 1, 0])) == pytest.approx(mean, rel=1e-14)


def test_cckl_is_that_of_the_function(probe):
    """The monitor takes it from the logits that it has, `fv.cckl` from float64 passes."""
    net = network()
    assert fv.FisherMonitor(net, *probe).record(0)["cckl"] == pytest.approx(fv.cckl(net, *probe).cckl, rel=1e-5)


def test_due_steps(probe):
    """At the first step, then at the first in each further `every`, however the steps jump; explicitly at any."""
    monitor = fv.FisherMonitor(network(), *probe, every=10)
    due = [step for step in (3, 4, 9, 12, 13, 19, 25, 47, 48) if monitor(step) is not None]
    assert due == [3, 12, 25, 47]
    assert monitor.record(48)["step"] == 48
    assert monitor.record(48) is None
    with pytest.warns(UserWarning, match="step 0 came after step 48: count steps over the whole run"):
        assert monitor(0) is None
    assert monitor.history.frame.step.tolist() == [3, 12, 25, 47, 48]


def test_diverged_model_is_recorded_and_goes_on(probe, tmp_path):
    net = network()
    monitor = fv.FisherMonitor(net, *probe, log=tmp_path / "a.jsonl")
    monitor.record(0, loss=torch.tensor(1.0))
    with torch.no_grad():
        net[5].weight[0] = torch.nan
    record = monitor.record(1, loss=torch.tensor(math.nan))
    assert record["note"] == "the training loss is NaN or infinite; 24 of 24 images have NaN or infinite logits"
    assert all(record[name] is None for name in ("accuracy", "loss", "train_loss", "cckl", "mean_frobenius"))
    with torch.no_grad():
        net[5].weight[0] = 1e30
    record = monitor.record(2)
    assert record["note"] is None
    assert record["loss"] > 1e20, "huge but finite is a number"
    history = read_log(tmp_path / "a.jsonl")
    assert history.frame.mean_frobenius.isna().tolist() == [False, True, False]
    history.save(tmp_path / "a.html")
    assert history.plot().data


def test_what_cannot_be_watched_is_refused_at_construction(probe, tmp_path):
    images, labels = probe
    random = nn.Sequential(network(), nn.Module())
    random[1].forward = lambda z: z + torch.randn_like(z)
    with pytest.raises(ValueError, match="random in evaluation mode"):
        fv.FisherMonitor(random, images, labels)
    with pytest.raises(ValueError, match="fewer than two classes"):
        fv.FisherMonitor(network(), images, torch.zeros(24, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected class indices"):
        fv.FisherMonitor(network(), images, labels[:3])
    with pytest.raises(TypeError, match="did you mean every"):
        fv.FisherMonitor(network(), images, labels, evry=3)
    with pytest.raises(ValueError, match="every is 0"):
        fv.FisherMonitor(network(), images, labels, every=0)
    with pytest.raises(FileNotFoundError, match="create it first"):
        fv.FisherMonitor(network(), images, labels, log=tmp_path / "no" / "a.jsonl")
    many = fv.Classifier(network(), likelihood="bernoulli")
    with pytest.raises(ValueError, match="several yes/no labels"):
        fv.FisherMonitor(many, images, torch.zeros(24, 10, dtype=torch.int64))


def test_log_resumes_without_doubling(probe, tmp_path):
    log, net = tmp_path / "run.jsonl", network()
    first = fv.FisherMonitor(net, *probe, every=5, log=log)
    for step in range(12):
        first(step)
    with pytest.raises(FileExistsError, match="pass resume=True"):
        fv.FisherMonitor(net, *probe, log=log)
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"step":15,"accu')
    with pytest.warns(UserWarning, match="torn line"):
        history = read_log(log)
    assert history.frame.step.tolist() == [0, 5, 10]
    with pytest.warns(UserWarning, match="torn line"):
        again = fv.FisherMonitor(net, *probe, every=5, log=log, resume=True)
    assert log.read_bytes() == whole
    for step in range(6, 21):  # from a checkpoint before the last record
        again(step)
    assert again.history.frame.step.tolist() == [0, 5, 10, 15, 20]
    assert read_log(log).frame.equals(again.history.frame)


def test_a_pickled_monitor_goes_on_where_it_was(probe, tmp_path):
    images, labels = probe
    plain = fv.FisherMonitor(network(), images, labels)
    first = plain.record(0)
    again = pickle.loads(pickle.dumps(plain))
    assert again.record(0) is None
    assert again.history.frame.equals(plain.history.frame)
    again.widget()
    assert again.record(1)["accuracy"] == first["accuracy"]
    assert pickle.loads(pickle.dumps(plain.trainer())).on_step_end
    logged = fv.FisherMonitor(network(), images, labels, log=tmp_path / "a.jsonl")
    logged.record(0)
    raw = pickle.dumps(logged)
    logged.record(4)
    assert pickle.loads(raw).last_step == 4  # the file knows better
    copy.deepcopy(logged).record(9)
    assert [r["step"] for r in read_log(tmp_path / "a.jsonl").frame.to_dict("records")] == [0, 4, 9]
    (tmp_path / "a.jsonl").unlink()
    pickle.loads(raw).record(7)
    assert read_log(tmp_path / "a.jsonl").frame.step.tolist() == [0, 7]


def test_log_of_something_else_is_refused(probe, tmp_path):
    images, labels = probe
    log, net = tmp_path / "run.jsonl", network()
    fv.FisherMonitor(net, images, labels, log=log).record(0)
    before = log.read_bytes()
    with pytest.raises(ValueError, match="is the log of the probe set"):
        fv.FisherMonitor(net, 1 - images, labels, log=log, resume=True)
    with pytest.raises(ValueError, match="is the log of a model like"):
        fv.FisherMonitor(fv.zoo.load("digits-mlp"), images, labels, log=log, resume=True)
    with pytest.raises(ValueError, match="is the log of the run 'run', expected 'other'"):
        fv.FisherMonitor(net, images, labels, log=log, resume=True, name="other")
    other = tmp_path / "notes.txt"
    other.write_text("my notes\n")
    with pytest.raises(ValueError, match="line 1: this is no training log"):
        fv.FisherMonitor(net, images, labels, log=other, resume=True)
    log.write_bytes(before.replace(b'"step":0', b'"step":"x"') + before.splitlines(keepends=True)[1])
    with pytest.raises(ValueError, match="line 2: not a record"):
        read_log(log)
    log.write_bytes(before[:20])
    with pytest.warns(UserWarning, match="torn"), pytest.raises(ValueError, match="holds no whole line"):
        read_log(log)
    assert other.read_text() == "my notes\n"


KILLED = """
import os, signal, sys, pathlib, torch
import fimviz as fv
from fimviz.training import log
path = pathlib.Path(sys.argv[1])
net = torch.nn.Linear(3, 3)
monitor = fv.FisherMonitor(net, torch.eye(3), [0, 1, 2], every=1, log=path)
for step in range(3):
    monitor(step)
def die(number):  # when half a line has reached the disk
    os.ftruncate(number, path.stat().st_size - 40)
    os.kill(os.getpid(), signal.SIGKILL)
log.os.fsync = die
monitor(3)
"""


def test_killed_in_the_middle_of_a_line(tmp_path):
    log = tmp_path / "run.jsonl"
    run = subprocess.run([sys.executable, "-c", KILLED, str(log)], capture_output=True, text=True, check=False)
    assert run.returncode == -signal.SIGKILL, run.stderr
    assert not log.read_bytes().endswith(b"\n")
    with pytest.warns(UserWarning, match="torn line"):
        assert read_log(log).frame.step.tolist() == [0, 1, 2]
    with pytest.warns(UserWarning, match="torn line"):
        again = fv.FisherMonitor(nn.Linear(3, 3), torch.eye(3), [0, 1, 2], every=1, log=log, resume=True)
    for step in range(6):
        again(step)
    assert read_log(log).frame.step.tolist() == list(range(6))
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_histories_stand_beside_each_other(probe, tmp_path):
    one = fv.FisherMonitor(network(), *probe, name="standard")
    two = fv.FisherMonitor(network(1), *probe, log=tmp_path / "madry.jsonl")
    one.record(0)
    two.record(0)
    both = one.history.beside(two.history)
    assert repr(both) == "TrainingHistory(standard: 1 records, madry: 1 records)"
    assert both.frame.run.tolist() == ["standard", "madry"]
    assert both.frame.seconds.gt(0).all()
    with pytest.raises(ValueError, match="two runs are called 'madry'"):
        both.beside(two.history)
    with pytest.raises(ValueError, match="no log is given"):
        read_log()
    empty = TrainingHistory({"new": ()}, {"new": 8})
    assert empty.frame.empty
    assert "Waiting for the first record of new" in empty.view().html()


class Net(nn.Module):
    """What the Hugging Face Trainer trains: a module that returns its loss beside the logits."""

    def __init__(self):
        super().__init__()
        self.net = network()

    def forward(self, pixel_values, labels=None):
        logits = self.net(pixel_values)
        return {"logits": logits} | ({} if labels is None else {"loss": cross_entropy(logits, labels)})


def test_hugging_face_trainer(probe, tmp_path):
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    images, labels = (t[:64] for t in fv.zoo.digits("train"))
    data = [{"pixel_values": x, "labels": y} for x, y in zip(images, labels, strict=True)]
    options = {"max_steps": 6, "per_device_train_batch_size": 8, "logging_steps": 2, "report_to": []}
    settings = transformers.TrainingArguments(
        str(tmp_path), use_cpu=True, disable_tqdm=True, save_strategy="no", **options
    )

    def fit(watch):
        net = Net()
        monitor = fv.FisherMonitor(net, *probe, every=2)
        trainer = transformers.Trainer(net, settings, train_dataset=data)
        trainer.remove_callback(transformers.PrinterCallback)
        if watch:
            trainer.add_callback(monitor.trainer())
        trainer.train()
        return net.state_dict(), monitor.history.frame

    plain, nothing = fit(False)
    watched, frame = fit(True)
    assert nothing.empty
    assert frame.step.tolist() == [0, 2, 4, 6]
    assert frame.train_loss.notna().tolist() == [False, False, True, True]
    assert frame.mean_frobenius.nunique() == 4
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    stranger = fv.FisherMonitor(Net(), *probe)
    trainer = transformers.Trainer(Net(), settings, train_dataset=data, callbacks=[stranger.trainer()])
    with pytest.raises(ValueError, match="not part of the one in training"):
        trainer.train()


def test_lightning(probe, tmp_path):
    lightning = pytest.importorskip("lightning")
    images, labels = (t[:64] for t in fv.zoo.digits("train"))
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = network()

        def training_step(self, batch, _):
            return cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.1)

    def fit(watch, watched=None):
        task = Task()
        monitor = fv.FisherMonitor((watched or task).net, *probe, every=4)
        quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
        callbacks = [monitor.lightning()] if watch else []
        trainer = lightning.Trainer(
            accelerator="cpu", max_epochs=2, callbacks=callbacks, default_root_dir=tmp_path, **quiet
        )
        trainer.fit(task, loader)
        return task.state_dict(), monitor.history.frame

    plain, _ = fit(False)
    watched, frame = fit(True)
    assert frame.step.tolist() == [0, 4, 8, 12, 16]
    assert frame.train_loss.notna().tolist() == [False, True, True, True, True]
    assert all(torch.equal(plain[key], watched[key]) for key in plain)
    with pytest.raises(ValueError, match="not part of the one in training"):
        fit(True, Task())


@pytest.mark.parametrize(
    ("loss", "error", "words"),
    [(torch.ones(3), ValueError, r"shape \(3,\), expected one number"), ("low", TypeError, "loss is 'low'")],
)
def test_a_loss_that_is_no_number_is_refused_before_work(probe, monkeypatch, loss, error, words):
    monkeypatch.setattr("fimviz.training.monitor.measure", lambda *given: pytest.fail("it has measured"))
    with pytest.raises(error, match=words):
        fv.FisherMonitor(network(), *probe).record(0, loss=loss)


def test_labels_are_missed(probe):
    with pytest.raises(TypeError, match=r"labels is None, expected class indices \(24,\)"):
        fv.FisherMonitor(network(), probe[0], None)


@pytest.mark.parametrize(("module", "method"), [("lightning", "lightning"), ("transformers", "trainer")])
def test_missing_framework_is_said(probe, monkeypatch, module, method):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"pip install {module}"):
        getattr(fv.FisherMonitor(network(), *probe), method)()
