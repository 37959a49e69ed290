"""`FisherMonitor`: a few lines in any training loop that write down what training does to the Fisher information."""

from __future__ import annotations

import hashlib
import warnings
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from fimviz._options import flag, named_options, real, whole
from fimviz._surroundings import in_ordinary
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.labels import read_labels
from fimviz.training.history import TrainingHistory
from fimviz.training.log import Log
from fimviz.training.measure import finite, measure

if TYPE_CHECKING:
    import anywidget
    import lightning
    import transformers


class FisherMonitor:
    """Records of a network in training on a fixed probe set: accuracy, loss, CCKL, ‖F‖_F, λ₁ and trace.

        monitor = fv.FisherMonitor(model, images, labels, every=50, log="run.jsonl")
        for step, (x, y) in enumerate(loader):
            …
            monitor(step, loss=loss)

    The model is left exactly as it came, its mode, running statistics, gradients and the random stream included: a
    training run with a monitor ends in the same bits as one without.

    **Cost** of a record: two forward passes of the probe set and K vector-Jacobian products toward the input, without
    parameter gradients; one of each measures rounding. Without that, with K = 10 and as many probe images as a batch
    has, it took as long as four training steps of the zoo's VGG and ResNet, and as eight of its MLP, where passes are
    short. CCKL is free: it needs the logits only.
    Every record holds what it took, in `forwards` and `vjps` for each image and in `seconds`.

    Args:
        net: the module in training, or a `Classifier` of it with its normalisation; in any mode, on any device.
        images: (n, …) floats, pixels in [0, 1], the probe set: held-out images of at least two classes; copied.
        labels: true classes (n,).
        every: `monitor(step)` records at the first step, and then at the first in each further `every` steps.
        log: a file for the records, one JSON line each, on the disk before training goes on.
        resume: whether to go on with a log that exists. What a killed run left of its last line is dropped, steps that
            are logged are not recorded twice, and a log of another run name, probe set or model is refused.
        name: of the run, in charts; by default the log's name, else the model's class.
        max_memory: bytes that a record may take beside model and images, as in `spectrum`.

    A pickled monitor takes its model, probe set and records along, and no live chart; where it is loaded it goes on
    with its log as `resume` does. Pickle it together with what trains the model, or it watches a copy.

    Images whose logits or gradients are not finite are in no number, and the record's `note` says so. A model that has
    diverged is recorded as such: what is NaN or infinite is None, with a `note`, and training goes on.
    A model for which the numbers would mean nothing is refused here, at construction (see `Classifier`).

    λ₁, trace and ‖F‖_F are in nats per squared pixel unit, and of all K−1 eigenvalues; they fall as the model becomes
    sure of its answers, so that `confidence` stands beside them. CCKL and the losses are in nats.

    CCKL is the mean KL(p(x_i) ‖ p(x_j)) over ordered pairs of different classes; it and mean ‖F‖_F over training are
    the curves of "Towards Disentangling Non-Robust and Robust Components in Performance Metric" (2020, figures 2–4).

    Example:
        >>> import torch, fimviz as fv
        >>> model = torch.nn.Linear(2, 2)
        >>> model.load_state_dict({"weight": 2 * torch.eye(2), "bias": torch.zeros(2)})
        <All keys matched successfully>
        >>> monitor = fv.FisherMonitor(model, torch.eye(2), [0, 1])
        >>> record = monitor.record(0)  # p = softmax(2x): λ₁ = 8 p₀ p₁ and CCKL = 2 (p₀ − p₁)
        >>> round(record["mean_spectral_norm"], 5), round(record["cckl"], 5), record["accuracy"]
        (0.83995, 1.52319, 1.0)
    """

    @named_options
    def __init__(
        self,
        net: Classifier | nn.Module,
        images: Any,
        labels: Any = None,
        *,
        every: int = 100,
        log: str | Path | None = None,
        resume: bool = False,
        name: str | None = None,
        max_memory: float | None = None,
    ) -> None:
        self.every = whole("every", every, 1)
        flag("resume", resume)
        max_memory = limit(max_memory)
        self.net = as_classifier(net)
        images, labels = unpacked(images, labels, self.net)
        self._images = self.net.admit(images, max_memory).detach().clone()
        self.net.likelihood.one_of_classes("CCKL compares images of different classes")
        truth = read_labels(labels, len(self._images), self.net)
        if truth is None:
            raise TypeError(f"labels is None, expected class indices ({len(self._images)},) of the probe set")
        if len(truth.unique()) < 2:
            raise ValueError("labels hold fewer than two classes, expected a probe set of at least two")
        self._labels, self._max_memory = truth, max_memory
        self.name = str(name or (Path(log).stem if log is not None else type(self.net.model).__name__))
        header = {"run": self.name, "probe": _digest_of_images(self._images, truth), "model": _digest_of(self.net)}
        self._log = None if log is None else Log(log, header | {"samples": len(truth)}, resume)
        self._records: list[dict[str, Any]] = self._log.records if self._log else []
        self._called: int | None = None
        self._widgets: weakref.WeakSet[Any] = weakref.WeakSet()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_widgets"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._widgets = weakref.WeakSet()
        if self._log:  # others may have written to it since: the file is right
            self._log = self._log.reopened()
            self._records = self._log.records

    def __repr__(self) -> str:
        last = f", the last at step {self._records[-1]['step']}" if self._records else ""
        return f"FisherMonitor({self.name}: {len(self._labels)} images, {len(self._records)} records{last})"

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {"text/plain": repr(self), "text/html": self.history.view().html()}

    @property
    def last_step(self) -> int | None:
        """The step of the last record."""
        return self._records[-1]["step"] if self._records else None

    @property
    def history(self) -> TrainingHistory:
        """All records so far: a table in `.frame`, charts by `.view()` and `.plot()`, a page by `.save(path)`."""
        return TrainingHistory({self.name: tuple(self._records)}, {self.name: len(self._labels)})

    def __call__(self, step: int, *, loss: Any = None) -> dict[str, Any] | None:
        """Record where a record is due; return it, or None.

        Args:
            step: of the whole run, not of an epoch.
            loss: the training loss here, a number or a tensor; read only where a record is due.
        """
        step = whole("step", step, 0)
        if self._called is not None and step < self._called:
            warnings.warn(
                f"step {step} came after step {self._called}: count steps over the whole run, or nothing more is "
                "recorded before the count has passed its former end",
                stacklevel=2,
            )
        self._called = step
        due = self.last_step is None or step // self.every > self.last_step // self.every
        return self.record(step, loss=loss) if due else None

    @in_ordinary
    def record(self, step: int, *, loss: Any = None) -> dict[str, Any] | None:
        """Record now; None where this step or a later one is recorded already, as after a resume."""
        step = whole("step", step, 0)
        if self.last_step is not None and step <= self.last_step:
            return None
        if isinstance(loss, Tensor):
            if loss.numel() != 1:
                raise ValueError(f"loss has shape {tuple(loss.shape)}, expected one number: loss.mean()")
            loss = loss.detach().item()
        loss = None if loss is None else real("loss", loss)
        record = {"step": step} | measure(self.net, self._images, self._labels, self._max_memory)
        if loss is not None:
            record["train_loss"] = finite(loss)
            if record["train_loss"] is None:
                record["note"] = "; ".join(filter(None, ["the training loss is NaN or infinite", record["note"]]))
        if self._log:
            self._log.append(record)
        self._records.append(record)
        if self._widgets:
            figure = self.history.view()
            for widget in self._widgets:
                widget.set_up(**figure.setup)
                widget.payload = figure.state["payload"]
        return record

    def widget(self) -> anywidget.AnyWidget:
        """A live chart: it grows by itself with each record, also while the cell that trains is running."""
        widget: Any = self.history.view().widget()
        self._widgets.add(widget)
        return widget

    def lightning(self) -> lightning.Callback:
        """A callback for `lightning.Trainer(callbacks=[…])`: records at the start, when due, and at the end."""
        from fimviz.training.callbacks import lightning_callback

        return lightning_callback(self)

    def trainer(self) -> transformers.TrainerCallback:
        """A callback for `transformers.Trainer(callbacks=[…])`: records at the start, when due, and at the end."""
        from fimviz.training.callbacks import trainer_callback

        return trainer_callback(self)


def _digest_of_images(images: Tensor, labels: Tensor) -> str:
    content = images.cpu().contiguous().numpy().tobytes() + labels.numpy().tobytes()
    return hashlib.sha256(f"{tuple(images.shape)} {images.dtype} ".encode() + content).hexdigest()[:16]


def _digest_of(net: Classifier) -> str:
    """What a model is built of, with its normalisation, but not its weights."""
    parts = [f"{name} {tuple(t.shape)}" for name, t in net.model.state_dict().items() if isinstance(t, Tensor)]
    parts += [type(net.model).__qualname__, str(net.mean.tolist()), str(net.std.tolist()), str(net.temperature)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
