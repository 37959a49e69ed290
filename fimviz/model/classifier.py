"""A model as a distribution p(y|x) over classes, as a function of pixels.

Everything else in fimviz sees a network only through `Classifier`: pixels in, logits out, evaluation mode,
nothing left changed. Coordinates are settled here once: normalisation is folded in, so that every norm,
eigenvalue and attack budget above this module is in pixel units.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.parameter import is_lazy

from fimviz._options import named_options, real
from fimviz._surroundings import as_given, ordinary
from fimviz._tell import tell
from fimviz.model.apart import apart
from fimviz.model.at_rest import Restored, at_rest, in_dtype
from fimviz.model.data import is_raw, unpacked
from fimviz.model.images import check_values, likely_mistake, likely_units, read
from fimviz.model.labels import read_names
from fimviz.model.likelihoods import Likelihood, likelihood_of
from fimviz.model.models import called, embeds, no_module, one_input, takes_tokens
from fimviz.model.origin import Print, weights_of
from fimviz.model.probe import probe

_TOKENS = (
    "the model looks up token ids in an embedding, expected one that takes floats, which can be moved a little: wrap "
    "it so that it takes the tokens' embeddings (inputs_embeds of Hugging Face), with input_range=None"
)

_PRECISIONS = "verified", "float32"


class Classifier:
    """A torch model seen as p(y|x), from pixels to log-probabilities.

    Args:
        model: any `nn.Module` from a batch of inputs to logits (n, K): a tensor, a tuple whose first item is
            one, or an object with `.logits`. It is used in evaluation mode with frozen parameters and is left
            exactly as it came, also after an error. Half-precision weights are used in float32 arithmetic.
        mean, std: the normalisation that the network was trained with, in pixel units: numbers, or one value a
            channel. The network then sees (x − mean)/std, and every result stays in pixel units.
        classes: K names in the outputs' order, or a mapping as id2label or label2id of a model's configuration. One
            name or two for a single sigmoid logit.
        temperature: the logits are divided by it. It moves no decision boundary, but scales λ.
        likelihood: what the outputs describe. "categorical" (softmax over K classes), "bernoulli" (K independent
            sigmoids; one logit is a binary model and becomes two classes), `fv.Gaussian(sigma=…)` (K real numbers with
            noise of that size: regression), or "poisson" (K counts, by the logarithms of their rates).
        input_range: smallest and largest valid input value; None for any.
        precision: what every spectrum of it takes, also those that other functions make. "verified": rounding moves no
            input across a kink of the network and is measured, by float64 where that is needed and the model and the
            device can. "float32": passes in float32 alone, faster for networks with kinks, with `guarantee`
            "unverified" (a float64 model stays one). `fimviz.spectrum(…, verify=…)` decides otherwise for one call.
            Paths, attacks and attributions go in float32 with either; bounds and certificates, λ₁ that shares
            their rows, and divergences over small steps mean nothing in float32, and take float64 with either.

    Wherever images go there may be tensors or arrays (n, …), lists of them or of PIL images; paths and a folder, where
    the model came with its geometry (`fimviz.from_torchvision` and its like); and a data set: torch's `DataLoader` or
    `Dataset`, one of Hugging Face's, an iterator, a list of (image, label) or of mappings, a batch (images, labels).
    Its labels stand in for those that are not given, told by class names where both sides have the same ones; labels
    that no class of the model has are left out with a warning, and labels given beside it have to agree. A gigabyte of
    pixels is read at most, and random numbers that were drawn on the way are put back.

    The first use probes the model with two inputs and refuses, with the reason, one that is random in
    evaluation mode, whose inputs in a batch influence each other, or that returns probabilities or NaN.
    Log-probabilities of K classes (`log_softmax`) are logits.

    Example, with the closed form p = softmax(x):
        >>> import torch, fimviz as fv
        >>> net = fv.Classifier(torch.nn.Identity(), classes=["cat", "dog"])
        >>> [[round(p, 4) for p in row] for row in net(torch.tensor([[0.0, 1.0]])).exp().tolist()]
        [[0.2689, 0.7311]]
    """

    @named_options
    def __init__(
        self,
        model: nn.Module,
        *,
        mean: float | Sequence[float] | Tensor | None = None,
        std: float | Sequence[float] | Tensor | None = None,
        classes: Sequence[Any] | Mapping[Any, Any] | None = None,
        temperature: float = 1.0,
        likelihood: str | Likelihood = "categorical",
        input_range: tuple[float, float] | None = (0.0, 1.0),
        precision: str = "verified",
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(no_module(model))
        if not 0 < (warmth := real("temperature", temperature)) < float("inf"):
            raise ValueError(f"temperature is {temperature}, expected a positive finite number")
        self._wanted = self.likelihood = likelihood_of(likelihood)
        if warmth != 1 and not self.likelihood.decides:
            raise ValueError(f"temperature is {temperature}, and {self.likelihood.words} have none: leave it out")
        if input_range is not None and not input_range[0] < input_range[1]:
            raise ValueError(f"input_range is {input_range}, expected (smallest, largest) or None")
        if precision not in _PRECISIONS:
            raise ValueError(f"precision is {precision!r}, expected one of {', '.join(_PRECISIONS)}")
        self.model = model
        self.precision = precision
        self.mean = _channel_values("mean", mean, 0.0)
        self.std = _channel_values("std", std, 1.0)
        if not (self.std > 0).all():
            raise ValueError(f"std is {std}, expected positive numbers")
        self.temperature = warmth
        self.input_range = input_range
        self._names = read_names(classes)
        self._probed = self._told = False
        self._sizes = 0, 0  # how many outputs the model has and how many logits they are: known after the first call
        self._draws = self._writes = self._caches = True  # what passes do besides; known after the first call
        self.batched_vjp = True
        self._dtypes: set[torch.dtype] = set()  # that the network can run in although its weights are another
        # Whether passes back in float32 suffice after a forward pass at float64's values (`fimviz.model.precise`):
        # known after the first call.
        self.precise = False
        # Whether it has no kinks that rounding could cross: known after the first call.
        self.smooth = False
        # Whether a pass over one input alone goes back as one in a batch does: known after the first call.
        self.alone = True
        # Whether products along directions can be taped, or else come from differentiating twice: known after one.
        self.double_backward: bool | None = None
        self.repeatable: bool | None = None
        # Whether it gives the same of images whose channels lie last in memory: known after the first pass that would.
        self.channels_last: bool | None = None
        # Why gradients say nothing of the model, if so (`fimviz.model.described`): known after the first call.
        self.undescribed = ""
        # What a pass over one input takes, by its shape and precision (`fimviz.fisher.passes.footprint`).
        self.footprints: dict[tuple[torch.Size, torch.dtype], tuple[int, int, int, int]] = {}

    # What makes a batch of raw images, where the model came with a geometry of its own (`fimviz.zoo.geometry`).
    prepare: Callable[[Any], Tensor] | None = None

    def __repr__(self) -> str:
        size = f", {len(self._names)} {self.likelihood.nouns}" if self._names else ""
        return f"Classifier({type(self.model).__name__}{size})"

    def __call__(self, images: Any) -> Tensor:
        """Log-probabilities (n, K) in nats of images (n, …) in pixels; differentiable where `images` is.

        Of a likelihood of numbers, their means.
        """
        with ordinary(grad=False):
            x = self.admit(images)
            differentiable = torch.is_grad_enabled() and x.requires_grad
            with self.at_rest(), torch.set_grad_enabled(differentiable):
                return self.likelihood.output(self.logits(x.to(self.device)))

    @property
    def classes(self) -> list[str]:
        """The K class names, as given, or "0" … "K−1" once the model has been called."""
        if self._names is None:
            raise ValueError("the number of classes is known after the first call: call net(images) first")
        return list(self._names)

    @property
    def device(self) -> torch.device:
        """Where the model lives (the CPU for a model without parameters)."""
        return next((t.device for t in self._state()), torch.device("cpu"))

    @property
    def dtype(self) -> torch.dtype:
        """The floating type of the passes toward the input: float64 for a float64 model, else float32."""
        return torch.float64 if self._weight_dtype == torch.float64 else torch.float32

    @property
    def has_float64(self) -> bool:
        """Whether the network, not one of float64, can run in float64 too; known after the first call."""
        return torch.float64 in self._dtypes

    def admit(self, images: Any, max_memory: float | None = None) -> Tensor:
        """Check a batch, and on first use the model, before any work starts; return it in the passes' dtype.

        The batch stays on its device, which is the CPU's or the model's. A model with a geometry of its own takes
        paths, PIL images, lists and data sets too: whatever `prepare` takes. `max_memory` is what the first use may
        take, in bytes, without end by default.
        """
        with ordinary(grad=False):
            x = self._checked(images)
            if not self._probed:
                probe(self, x.detach(), max_memory)
            return x

    def apart(self) -> Classifier:
        """The same classifier on a copy of the model as it is now, which nobody else trains or changes.

        Raises:
            ValueError: the model cannot be copied; the reason.
        """
        twin = copy.copy(self)
        twin.model = apart(self.model)
        return twin

    def at_rest(self) -> AbstractContextManager[Restored]:
        """Hold the model's lock with the model in evaluation mode and frozen; restore everything afterwards."""
        return at_rest(self.model, self.device, self._draws, self._writes)

    def same_as(self, other: Any) -> bool:
        """Whether another classifier wraps the same module in the same way, so that its answers are these."""
        if other is self or not isinstance(other, Classifier):
            return other is self
        values = [(net.temperature, net.likelihood, net.mean.tolist(), net.std.tolist()) for net in (self, other)]
        return other.model is self.model and values[0] == values[1]

    def fingerprint(self) -> Print | None:
        """What the weights are told by later (`fimviz.model.origin`)."""
        with self.at_rest(), torch.no_grad():
            return Print.of(weights_of(self.model))

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, K) of a checked batch on the model's device; call it inside `at_rest()` only.

        The network runs in the precision of the batch, whatever its weights', where it can (`has_float64`).
        """
        return self.read_out(self._outputs(self.in_company(x))[: len(x)].to(x.dtype))

    def read_out(self, outputs: Tensor) -> Tensor:
        """Logits (m, K) of what the model returns, (m, ·), by the temperature and the likelihood: a linear map."""
        return self.likelihood.logits(outputs / self.temperature)

    def normalised(self, x: Tensor) -> Tensor:
        """What the model is called with for inputs x (n, …)."""
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, std = (v.to(x.device, x.dtype).view(shape) for v in (self.mean, self.std))
        return (x - mean) / std

    def at_temperature(self, temperature: float) -> Classifier:
        """The same model, which is shared, at another temperature."""
        twin = copy.copy(self)
        twin.temperature = temperature
        return twin

    def in_company(self, x: Tensor) -> Tensor:
        """The batch, or one input twice where torch goes back through one alone wrongly.

        In torch 2.15 a BatchNorm2d in evaluation mode does so on a CPU, for a gradient that comes from tokens: with
        one image its strides fit two layouts, and the wrong one is read.
        """
        return x if len(x) != 1 or self.alone else torch.cat([x, x.detach()])

    def _outputs(self, x: Tensor) -> Tensor:
        change = x.dtype in self._dtypes
        try:
            # Without normalisation too: a first layer that works in place must not write into the user's images.
            with (
                as_given(self.device),
                in_dtype(self.model, x.dtype, self._caches) if change else nullcontext(),
            ):
                output = called(self.model, self.normalised(x).to(x.dtype if change else self._weight_dtype))
        except Exception as error:
            if embeds(self.model) and "embedding" in str(error):
                raise TypeError(_TOKENS) from error
            if isinstance(self.model, fx.GraphModule) and re.search(r"(size\(\)|shape)\[0\]", str(error)):
                raise ValueError(
                    "the model was exported for batches of one size, expected any: give torch.export.export "
                    "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
                ) from error
            error.add_note(
                f"fimviz called the model on {len(x)} inputs of shape {tuple(x.shape[1:])}.{likely_mistake(x)}"
            )
            raise
        z = _tensor_of(output)
        if z.is_nested or z.layout != torch.strided:
            raise ValueError("the model returned a sparse or nested tensor, expected dense logits: z.to_dense()")
        if z.ndim != 2 or len(z) != len(x):
            raise ValueError(
                f"the model returned shape {tuple(z.shape)} for {len(x)} inputs of shape {tuple(x.shape[1:])}, "
                f"expected logits ({len(x)}, K).{likely_mistake(x)}"
            )
        self._wanted.of(z.shape[1])
        return z

    @property
    def _weight_dtype(self) -> torch.dtype:
        return next((t.dtype for t in self._state() if t.is_floating_point()), torch.float32)

    def _state(self) -> Iterator[Tensor]:
        yield from self.model.parameters()
        yield from self.model.buffers()

    def batch(self, images: Any) -> Tensor:
        """The images, in whatever form they come, as a floating-point batch (n, …) in their own dtype."""
        if takes_tokens(self.model, images):
            raise TypeError(_TOKENS)
        images, _ = unpacked(images, net=self)
        if self.prepare is not None and is_raw(images):
            images = self.prepare(images)
        return read(images)

    def _checked(self, images: Any) -> Tensor:
        images = self.batch(images)
        if batch := one_input(self.model, tuple(images.shape)):
            raise ValueError(
                f"images have shape {tuple(images.shape)}: one image? The model takes a batch ({batch}): pass "
                "images[None]"
            )
        if lazy := [name for name, t in weights_of(self.model) if is_lazy(t)]:
            raise ValueError(
                f"the model has layers that have never been run and have no weights yet, {lazy[0]} among them: call "
                "model(images) once first"
            )
        devices = {t.device for t in self._state()}
        if len(devices) > 1:
            raise ValueError(
                f"the model is spread over {sorted(map(str, devices))}, expected one device: move it, for instance "
                "model.cpu()"
            )
        if self.device.type == "meta":
            raise ValueError("the model is on the device meta, expected one with weights: load them first")
        if any(t.is_inference() for t in self._state()):
            raise ValueError(
                "the model was made inside torch.inference_mode(), expected one that can be differentiated: make or "
                "load it outside"
            )
        if images.device != self.device and images.device.type != "cpu":
            raise ValueError(
                f"images are on {images.device} and the model is on {self.device}: "
                f"move one of them, for instance images.to({str(self.device)!r})"
            )
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, images.shape[1]):
                raise ValueError(
                    f"{name} has {len(values)} values and images have {images.shape[1]} channels (shape "
                    f"{tuple(images.shape)}), expected one value or one a channel of images (n, channels, …)."
                    + likely_mistake(images)
                )
        if images.is_inference():
            images = images.clone()
        images = check_values(images, self.input_range)
        if not self._told and (mistake := likely_units(images, self.input_range, self.mean, self.std)):
            self._told = True
            tell(mistake)
        # A result keeps what it was computed on, whatever becomes of the memory that was given.
        return images.to(self.dtype, copy=True, memory_format=torch.contiguous_format)


def as_classifier(net: Classifier | nn.Module) -> Classifier:
    """The classifier itself, or a bare module wrapped: pixels in, logits out."""
    return net if isinstance(net, Classifier) else Classifier(net)


def _channel_values(name: str, given: float | Sequence[float] | Tensor | None, default: float) -> Tensor:
    values = torch.as_tensor(default if given is None else given, dtype=torch.float64).detach().cpu()
    if values.ndim > 1 and values.numel() != max(values.shape):
        raise ValueError(f"{name} has shape {tuple(values.shape)}, expected a number or one value a channel")
    if not values.isfinite().all():
        raise ValueError(f"{name} is {given}, expected finite numbers")
    return values.flatten()


def _tensor_of(output: Any) -> Tensor:
    """The logits in whatever the model returns: a tensor, an object with `.logits`, a mapping, a tuple."""
    if isinstance(output, Tensor):
        return output
    inner = getattr(output, "logits", None)
    if inner is None and isinstance(output, Mapping):
        inner = output.get("logits")
    if inner is None and isinstance(output, Sequence) and len(output):
        inner = output[0]
    if isinstance(inner, Tensor):
        return inner
    raise TypeError(
        f"the model returned {type(output).__name__}, expected logits: a tensor (n, K), a tuple that starts with "
        "one, a mapping with 'logits', or an object with .logits"
    )
