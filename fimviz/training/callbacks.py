"""The monitor inside PyTorch Lightning and inside the Hugging Face Trainer, which are imported where asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    import lightning
    import transformers

    from fimviz.training.monitor import FisherMonitor


def lightning_callback(monitor: FisherMonitor) -> lightning.Callback:
    """See `FisherMonitor.lightning`."""
    try:
        from lightning import Callback
    except ImportError as error:
        raise ImportError("PyTorch Lightning is not installed: pip install lightning") from error

    class LightningMonitor(Callback):
        """Steps are the Trainer's `global_step`, which gradient accumulation does not count."""

        def __reduce__(self) -> Any:
            return lightning_callback, (monitor,)

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Record the first step."""
            _same_model(monitor, pl_module)
            if trainer.is_global_zero:
                monitor(trainer.global_step)

        def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            """Record where a record is due, with the loss that `training_step` returned."""
            if trainer.is_global_zero:
                loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
                monitor(trainer.global_step, loss=loss if isinstance(loss, Tensor) else None)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Record the last step."""
            if trainer.is_global_zero:
                monitor.record(trainer.global_step)

    return LightningMonitor()


def trainer_callback(monitor: FisherMonitor) -> transformers.TrainerCallback:
    """See `FisherMonitor.trainer`."""
    try:
        from transformers import TrainerCallback
    except ImportError as error:
        raise ImportError("transformers is not installed: pip install transformers accelerate") from error

    class TrainerMonitor(TrainerCallback):
        """Steps are the Trainer's `global_step`; the training loss is the mean that it has logged last."""

        def __reduce__(self) -> Any:
            return trainer_callback, (monitor,)

        def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Record the first step."""
            _same_model(monitor, given["model"])
            if state.is_world_process_zero:
                monitor(state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Record where a record is due."""
            if state.is_world_process_zero:
                logged = (entry["loss"] for entry in reversed(state.log_history) if "loss" in entry)
                monitor(state.global_step, loss=next(logged, None))

        def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
            """Record the last step."""
            if state.is_world_process_zero:
                monitor.record(state.global_step)

    return TrainerMonitor()


def _same_model(monitor: FisherMonitor, trained: nn.Module) -> None:
    """Refuse before the first step to watch a network that nobody trains, such as a copy."""
    known = {id(p) for p in trained.parameters()}
    if not all(id(p) in known for p in monitor.net.model.parameters()):
        raise ValueError(
            "the monitor's model is not part of the one in training, so that its records would never change: make "
            "the monitor from the module that the Trainer gets"
        )
