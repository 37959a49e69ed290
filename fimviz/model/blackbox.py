"""A model that can only be queried: inputs in, logits or probabilities out, every query counted.

`BlackBox` offers what the black-box spectrum and the views need of a classifier, and nothing that takes a gradient.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fimviz._options import named_options, whole
from fimviz._surroundings import as_given, in_ordinary, ordinary
from fimviz._tell import tell
from fimviz.model.data import unpacked
from fimviz.model.images import check_values, likely_units, read
from fimviz.model.labels import read_names
from fimviz.model.likelihoods import Likelihood, likelihood_of

_PRECISIONS = {"float32": torch.float32, "float64": torch.float64}
_OUTPUTS = ("logits", "probabilities")
_SUM = 1e-3  # how far from 1 the probabilities of a row may sum
_GRIDS = (*(10.0**-d for d in range(1, 7)), 1 / 255, 1 / 256)  # what services round probabilities to
_LOOKS = 8  # further inputs asked where the first answer is that of a label


class BudgetExceeded(RuntimeError):  # noqa: N818 (it says what happened, as StopIteration does)
    """The next batch would take more queries than the budget allows; nothing of it was sent."""


class BlackBox:
    """A function from a batch of inputs to class scores, seen as p(y|x).

    Args:
        predict: takes a batch (n, …), a NumPy array of its own, and returns scores (n, K): NumPy, torch, lists, or a
            list that holds one such array (as an ONNX Runtime session returns). One call at a time, while fimviz
            holds `at_rest()`.
        classes: K names, as `Classifier` takes them. One name or two for a single yes/no score.
        outputs: "logits" or "probabilities". Of probabilities the logarithm is taken, of zeros that of the smallest
            normal number of the output's precision (float32: 1.2e-38, hence −87.3), so that all stay finite; a yes/no
            probability of 1 counts as 1 − ε/2. What `predict` has rounded away cannot be seen.
        likelihood: as `Classifier` takes it: "categorical" (one of K classes), "bernoulli" (K yes/no labels; one score
            is a binary model and becomes two classes), `fv.Gaussian(sigma=…)` or "poisson".
        input_range: smallest and largest valid input value; None for any.
        batch_size: the most inputs in a query.
        budget: the most inputs ever sent, over all threads and retries; None for no limit.
        retries: how often a batch whose `predict` raises is sent again.
        precision: of the inputs that are sent, "float32" or "float64".
        as_torch: whether `predict` takes a torch tensor (on the CPU) instead.

    The first use sends one input twice, to learn K and to refuse a model that is random.

    It can be pickled where `predict` can: a function of a module, not a lambda or one that holds an open session. A
    copy counts its own queries from there on.

    Nothing beyond `input_range` is ever sent. A service that answers with labels alone is refused.

    Attributes:
        queries: how many inputs have been sent so far, retries included.
        resolution: what probabilities are rounded to, as the answers so far show, 0.01 for two decimals; 0 where they
            are not.

    Example, with the closed form p = softmax(x):
        >>> import numpy as np, fimviz as fv
        >>> box = fv.BlackBox(lambda x: x + 1, classes=["cat", "dog"])
        >>> [[round(p, 4) for p in row] for row in box(np.array([[0.0, 1.0]])).exp().tolist()], box.queries
        ([[0.2689, 0.7311]], 3)
    """

    has_float64 = precise = smooth = False

    @named_options
    def __init__(
        self,
        predict: Callable[[Any], Any],
        *,
        classes: Sequence[Any] | Mapping[Any, Any] | None = None,
        outputs: str = "logits",
        likelihood: str | Likelihood = "categorical",
        input_range: tuple[float, float] | None = (0.0, 1.0),
        batch_size: int = 64,
        budget: int | None = None,
        retries: int = 2,
        precision: str = "float32",
        as_torch: bool = False,
    ) -> None:
        if not callable(predict):
            raise TypeError(f"expected a function from a batch of inputs to scores, got {type(predict).__name__}")
        for name, value, valid in (
            ("outputs", outputs, _OUTPUTS),
            ("precision", precision, sorted(_PRECISIONS)),
        ):
            if value not in valid:
                raise ValueError(f"{name} is {value!r}, expected one of {', '.join(valid)}")
        if input_range is not None and not input_range[0] < input_range[1]:
            raise ValueError(f"input_range is {input_range}, expected (smallest, largest) or None")
        self.predict = predict
        self.outputs = outputs
        self._wanted = self.likelihood = likelihood_of(likelihood)
        if outputs == "probabilities" and not self.likelihood.decides:
            raise ValueError(f"outputs is {outputs!r} and the model gives {self.likelihood.words}, expected 'logits'")
        self.input_range = input_range
        self.batch_size = whole("batch_size", batch_size, 1)
        self.budget = None if budget is None else whole("budget", budget, 0)
        self.retries = whole("retries", retries, 0)
        self.dtype = _PRECISIONS[precision]
        self.device = torch.device("cpu")
        self.queries = 0
        self.resolution = self._relative = self._floor = 0.0  # of short floats: their epsilon and smallest number
        self._grids, self._rounds = list(_GRIDS), False
        self._told = False
        self._as_torch = as_torch
        self._names = read_names(classes)
        self._width: int | None = None  # scores in a row, once known
        self._use, self._count = threading.RLock(), threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name not in ("_use", "_count")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._use, self._count = threading.RLock(), threading.Lock()

    def __repr__(self) -> str:
        size = f", {len(self._names)} {self.likelihood.nouns}" if self._names else ""
        return f"BlackBox({getattr(self.predict, '__name__', type(self.predict).__name__)}{size})"

    def __call__(self, images: Any) -> Tensor:
        """Log-probabilities (n, K) in nats, float64, of inputs (n, …); for yes/no labels those of yes."""
        with ordinary():
            x = self.admit(images)
            with self.at_rest():
                return self.likelihood.output(self.logits(x))

    @property
    def classes(self) -> list[str]:
        """The K class names, as given, or "0" … "K−1" once the model has been queried."""
        if self._names is None:
            raise ValueError("the number of classes is known after the first query: call box(images) first")
        return list(self._names)

    @in_ordinary
    def admit(self, images: Any, max_memory: float | None = None) -> Tensor:
        """Check a batch, and on first use the model (2 queries); return it on the CPU in the queries' precision."""
        x = self._checked(images)
        with self._use:
            if self._width is None:
                self._probe(x)
        return x

    def apart(self) -> BlackBox:
        """Refused: a live view may ask at any moment, and a function cannot be copied.

        Raises:
            ValueError: always.
        """
        raise ValueError("a black box is a function, which cannot be copied and may be in use or cost a query")

    def fingerprint(self) -> None:
        """Nothing: a function cannot be looked into, and asking it may cost."""

    @contextmanager
    def at_rest(self) -> Iterator[None]:
        """Hold the model's lock: no other thread's queries come between."""
        with self._use:
            yield

    def logits(self, x: Tensor) -> Tensor:
        """Logits (n, K), float64 on the CPU, of a batch from `admit`, by n queries in batches.

        NaN where no answer came. Inputs beyond the range are sent as its ends: services refuse others, or clip them
        without a word.
        """
        if self.input_range is not None:
            x = x.clamp(*self.input_range)
        z = torch.cat([self._ask(part) for part in x.detach().split(self.batch_size)])
        return self.likelihood.logits(z)

    def noise(self, z: Tensor) -> Tensor:
        """The standard deviation that rounding of answers to few digits leaves in logits z (n, K)."""
        if self.outputs == "logits":
            return self._relative / math.sqrt(12) * z.abs()
        rounded = torch.clamp(self._relative * self.likelihood.mean(z), min=self.resolution) / math.sqrt(12)
        return rounded / self.likelihood.slope(z).clamp_min(self.digit / 4 or 1)

    @property
    def digit(self) -> float:
        """The smallest probability that answers tell from none."""
        return max(self.resolution, self._floor if self._relative else 0.0)

    def _probe(self, x: Tensor) -> None:
        for one in x.split(1):  # the first input that has an answer
            z = torch.cat([self._ask(part) for part in torch.cat([one, one]).split(self.batch_size)])
            if z.isfinite().all():
                break
        else:
            raise ValueError("predict returned NaN or infinite scores, expected finite ones")
        if self._is_label(z[:1]):  # others, and mixtures with noise, which no network is sure of
            noise = torch.rand((_LOOKS, *x.shape[1:]), generator=torch.Generator().manual_seed(0)).to(x)
            low, high = self.input_range or (float(v) for v in x.aminmax())
            share = torch.linspace(0.2, 1, _LOOKS).to(x).view(-1, *[1] * (x.ndim - 1))
            looks = one + share * (low + (high - low) * noise - one)
            looks = torch.cat([looks, x[x.flatten(1).isfinite().all(1)][:_LOOKS]])
            if all(self._is_label(self._ask(part)) for part in looks.split(self.batch_size)):
                raise ValueError(
                    f"predict returned labels alone, 1 for one class and 0 for the others at {len(looks)} inputs, "
                    "expected scores that change with the input: of labels there is no Fisher information"
                )
        if (z[0] - z[1]).abs().amax() > 1e-4 * z.abs().amax().clamp_min(1e-6):
            raise ValueError("the model is random: one input sent twice came back with two different results")
        width = z.shape[1]
        summed = self._wanted.decides and self.outputs == "logits" and width > 1
        if summed and bool((z >= 0).all()) and bool((z.sum(1) - 1).abs().max() < 1e-4):
            raise ValueError(
                "the model returns probabilities (rows sum to 1), expected logits: pass outputs='probabilities'"
            )
        likelihood = self._wanted.of(width)
        count = likelihood.logits(z).shape[1]
        names = [str(i) for i in range(count)] if self._names is None else self._names
        if width < count and len(names) == 1:
            names = [f"not {names[0]}", names[0]]
        if len(names) != count:
            raise ValueError(f"classes has {len(names)} names and the model returns {width} scores: name each of them")
        self.likelihood, self._names, self._width = likelihood, names, width

    def _ask(self, x: Tensor) -> Tensor:
        """The scores (n, K) of one batch as logits: counted before it is sent, sent again where predict raises."""
        for attempt in range(self.retries + 1):
            self._reserve(len(x))
            batch = x.clone(memory_format=torch.contiguous_format)  # predict may write into what it is given
            try:
                with as_given():
                    output = self.predict(batch if self._as_torch else batch.numpy())
                break
            except Exception as error:
                if attempt == self.retries:
                    error.add_note(
                        f"fimviz sent {len(x)} inputs of shape {tuple(x.shape[1:])} {attempt + 1} times, the last "
                        f"time in vain; {self.queries} queries are done"
                    )
                    raise
        return self._understood(output, len(x))

    def _reserve(self, count: int) -> None:
        with self._count:
            if self.budget is not None and self.queries + count > self.budget:
                raise BudgetExceeded(
                    f"{self.queries} of {self.budget} queries are done and the next batch has {count}: raise "
                    "`.budget`, or ask for fewer probes or inputs"
                )
            self.queries += count

    def _understood(self, output: Any, count: int) -> Tensor:
        try:
            if isinstance(output, Tensor):
                short = output.dtype == torch.bfloat16
                self._relative = torch.finfo(output.dtype).eps if short else self._relative
                output = (output.float() if short else output).detach().cpu()
            given = np.asarray(output)
            if given.dtype == np.float16:
                self._relative, self._floor = (float(v) for v in (np.finfo(np.float16).eps, np.finfo(np.float16).tiny))
            scores = torch.tensor(given, dtype=torch.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"predict returned {type(output).__name__} that is no array of numbers, expected scores (n, K)"
            ) from error
        if scores.ndim == 3 and len(scores) == 1:
            scores = scores[0]
        if scores.ndim == 1 and self._wanted.exclusive and len(scores) == count:
            raise ValueError(
                f"predict returned one number for each of {count} inputs, expected scores ({count}, K): of class ids "
                "alone there is no Fisher information, and for a yes/no score pass likelihood='bernoulli'"
            )
        if scores.ndim == 1 and not self._wanted.exclusive:
            scores = scores[:, None]
        if scores.ndim != 2 or len(scores) != count or scores.shape[1] != (self._width or max(1, scores.shape[1])):
            raise ValueError(
                f"predict returned shape {tuple(scores.shape)} for {count} inputs, "
                f"expected ({count}, {self._width or 'K'})"
            )
        scores[~scores.isfinite().all(1)] = torch.nan  # one input without an answer does not take those of the others
        return scores if self.outputs == "logits" else self._logs(scores, given.dtype)

    def _logs(self, p: Tensor, given: np.dtype[Any]) -> Tensor:
        known = p[p.isfinite().all(1)]
        if len(known) and (known.min() < -1e-6 or known.max() > 1 + _SUM):
            raise ValueError(
                f"predict returned values from {known.min():.4g} to {known.max():.4g}, expected probabilities"
            )
        limits = np.finfo(given if given in (np.float16, np.float32, np.float64) else np.float64)
        self._look_at_digits(known)
        # What was rounded to 0 lies between 0 and half a digit.
        least, rest = (self.resolution / 4 or float(v) for v in (limits.tiny, limits.eps / 2))
        return self._wanted.from_probabilities(p, least, rest, self.resolution)

    def _look_at_digits(self, p: Tensor) -> None:
        """Which grids all answers so far lie on: the widest is what they are rounded to, none where they are not."""
        if ((p > 0) & (p < 1)).any():  # 0 and 1 lie on every grid
            on = [q for q in self._grids if bool(((p / q - (p / q).round()).abs() * q < 2e-7).all())]
            self._grids, self._rounds = on, True
        self.resolution = max(self._grids, default=0.0) if self._rounds else 0.0

    def _is_label(self, z: Tensor) -> bool:
        """Whether answers, as logits, are those of labels: two values, the larger one once in a row."""
        if z.shape[1] < 2 or not self._wanted.exclusive:
            return False
        top, low = z.amax(1, keepdim=True), z.amin(1, keepdim=True)
        ends = ((z == top) | (z == low)).all() and ((z == top).sum(1) == 1).all()
        if self.outputs == "logits":
            return bool(ends and (top == 1).all() and (low == 0).all())
        return bool(ends and (top == 0).all() and (low < -3).all() and not self._rounds)

    def _checked(self, images: Any) -> Tensor:
        x = check_values(read(unpacked(images)[0]).detach().cpu(), self.input_range)
        if not self._told and (mistake := likely_units(x, self.input_range, torch.zeros(1), torch.ones(1))):
            self._told = True
            tell(mistake)
        return x.to(self.dtype).clone(memory_format=torch.contiguous_format)
