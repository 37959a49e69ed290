"""What the first call asks of a model: two inputs, by which it is refused, with the reason, or understood.

What passes may rely on afterwards (several cotangents at once, float64, one input alone) is noted in the classifier.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fimviz._tell import tell
from fimviz.model.at_rest import lock_of, recurs
from fimviz.model.described import follows, unexplained
from fimviz.model.engine.memory import enough
from fimviz.model.engine.plan import footprint
from fimviz.model.models import last_operations, operations, quantised
from fimviz.model.precise import Steady, Traits, float64_values
from fimviz.model.remembered import Memory

if TYPE_CHECKING:
    from fimviz.model.classifier import Classifier

_PART = 16  # inputs at a time, of a batch that begins with some at which the model cannot be judged
_FEW = 32  # machine epsilons; random networks had up to 22
_REFUSALS = RuntimeError, TypeError, ValueError, AssertionError  # what models and torch say to what they do not know
# Pixels a side from which on a network that takes other sizes is asked what it is made of at every fourth of them, and
# numbers of an input from which on one that does not is asked no more than it has to be.
_LARGE, _EVERY, _COSTLY = 128, 4, 2**14
_COUPLED = (
    "the inputs of a batch influence each other, so a Fisher information of one input does not exist. Look for batch "
    "statistics that ignore model.eval()"
)


def probe(net: Classifier, images: Tensor, max_memory: float | None = None) -> None:
    """Refuse a model whose Fisher information would not mean what it says; note what its passes can do."""
    with lock_of(net.model):
        memory = Memory(net, images.shape[1:])
        if memory.recall():
            _name(net)
            return
        told = _told(net, images, max_memory)
        _name(net)
        if not told:  # what was told is told again
            memory.keep()


def _told(net: Classifier, images: Tensor, max_memory: float | None) -> bool:
    """What `probe` does; whether something had to be told."""
    try:
        return _probe(net, images, max_memory)
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "the model computes parts of it again by reentrant checkpoints, which cannot be differentiated "
            "toward the input: call torch.utils.checkpoint with use_reentrant=False"
        ) from error


class _Pass:
    """A pass over inputs x (n, …) that keeps its graph: `outputs`, logits `z` (n, K) with `values`, `scores` (n,)."""

    def __init__(self, net: Classifier, x: Tensor) -> None:
        self.x = x.detach().clone().requires_grad_()
        self.outputs = net._outputs(self.x)
        net.likelihood = net._wanted.of(self.outputs.shape[1])
        self.z = net.read_out(self.outputs).to(x.dtype)
        self.values = self.z.detach()
        # Plain sums are constant where the outputs are centred.
        self.scores = (self.z * torch.linspace(1, 2, self.z.shape[1]).to(self.z)).sum(1)
        self.blind = False  # whether there is no gradient: known after the first
        self._slopes: dict[int | None, Tensor] = {}

    def slope(self, of: int | None = None) -> Tensor:
        """The gradient (n, …) of the score of one input, or of all."""
        of = 0 if len(self.x) == 1 else of
        if of not in self._slopes:
            score, found = self.scores.sum() if of is None else self.scores[of], None
            if score.requires_grad:
                (found,) = torch.autograd.grad(score, self.x, retain_graph=True, allow_unused=True)
            self.blind = found is None
            self._slopes[of] = torch.zeros_like(self.x) if found is None else found
        return self._slopes[of]

    @property
    def sound(self) -> bool:
        """Whether logits and slopes are finite."""
        if not self.values.isfinite().all():
            return False
        return all(bool(self.slope(i)[i].isfinite().all()) for i in range(len(self.x)))


def _fits(net: Classifier, x: Tensor, graphs: int, smooth: bool, max_memory: float) -> None:
    """Refuse a budget that is too small for what is asked at an input x (1, …)."""
    weights = [t for t in net._state() if t.is_floating_point()]
    copies = sum(t.nbytes for t in weights)  # by which writes into them are seen
    if net.dtype != torch.float64 and net.device.type != "mps":
        copies += 8 * (1 if smooth else 2) * sum(t.numel() for t in weights)
    what = "asking the model at its first use what its passes can do, in float64 too"
    enough(copies + graphs * footprint(net, x)[0], net.device, max_memory, what, "use smaller images")


def _alone(net: Classifier, x: Tensor) -> _Pass | None:
    """A pass over one input; None where the model refuses that, as batch statistics do in words of their own."""
    with suppress(*_REFUSALS):
        return _Pass(net, x[:1])
    return None


def _searched(net: Classifier, x: Tensor) -> Tensor:
    """The first two inputs or one with finite logits and slopes, by which the model is judged; else the first."""
    found = x[:0]
    for part in (x[:2], *(x[2:].split(_PART) if len(x) > 2 else ())):
        here = part.to(net.device).requires_grad_()
        z = net._outputs(here)
        good = z.isfinite().all(1)
        if z.requires_grad:
            (g,) = torch.autograd.grad(z.sum(1).sum(), here, allow_unused=True)
            good &= True if g is None else g.isfinite().flatten(1).all(1)
        found = torch.cat([found, part[good.to(part.device)]])
        if len(found) > 1:
            break
    return found[:2] if len(found) else x[:2]


def _paired(x: Tensor) -> Tensor:
    """Two inputs of which one may have been given."""
    return x if len(x) > 1 else torch.cat([x, 0.25 * x + 0.5 * x.flip(-1)])


def _judged(net: Classifier, pair: Tensor, one: _Pass | None) -> _Pass:
    """A pass over two inputs: of large images at fewer pixels, where the network does the same with these."""
    if pair.ndim == 4 and min(pair.shape[2:]) >= _LARGE and one is not None:
        with suppress(*_REFUSALS, IndexError):
            fewer = _Pass(net, pair[..., ::_EVERY, ::_EVERY].contiguous())
            if fewer.sound and _alike(net, pair, one, fewer):
                return fewer
    return _Pass(net, pair)


def _alike(net: Classifier, pair: Tensor, one: _Pass, fewer: _Pass) -> bool:
    """Whether fewer pixels went through all that one whole input goes through, which answers in a pair as it does."""
    if fewer.values.shape[1] != one.values.shape[1] or not operations(one.outputs) <= operations(fewer.outputs):
        return False
    if one.outputs.requires_grad != fewer.outputs.requires_grad:
        return False
    with torch.no_grad():
        together = net.logits(pair)[:1]
    return bool((together - one.values).abs().amax() <= 1e-3 * one.values.abs().amax().clamp_min(1e-6))


def _probe(net: Classifier, images: Tensor, max_memory: float | None) -> bool:
    """What `probe` asks, of two inputs; whether something had to be told."""
    with net.at_rest() as restored:
        before = _rng_state(net)
        own = net._weight_dtype
        pair = _paired(images[:2].to(net.device))
        eps = torch.finfo(torch.float32 if own.itemsize < 4 and _in(net, torch.float32, pair) else own).eps
        one, judged = _alone(net, pair), None
        if one is not None and one.sound:
            judged = _judged(net, pair, one)
        if one is None or judged is None or not judged.sound:
            pair = _paired(_searched(net, images).to(net.device))
            one = _alone(net, pair)
            judged = _judged(net, pair, one)
        x, values = judged.x.detach(), judged.values
        whole = x.shape == pair.shape
        alone = one if one is None or whole else _alone(net, x)
        some = judged if alone is None or pair[0].numel() <= _COSTLY else alone
        with Traits(some.x) as traits:
            again = net.logits(some.x).detach()
        if one is not None and max_memory is not None:
            _fits(net, pair[:1], 5 if whole else 2, traits.smooth, max_memory)
        if not values.isfinite().all() or not (one is None or one.values.isfinite().all()):
            raise ValueError(
                "the model returns NaN or infinite logits for these images, expected finite ones: look at its "
                "weights and at mean= and std="
            )
        size = values.abs().amax().clamp_min(1e-6)
        if (some.values - again).abs().amax() > max(1e-4, eps) * size:
            raise ValueError(
                "the model is random in evaluation mode: two calls on the same images differ. "
                "Look for dropout or noise that ignores model.eval()"
            )
        slopes = judged.slope(0), judged.slope(1)
        if judged.blind:
            if integers := quantised(net.model):
                raise ValueError(
                    f"the model is quantised ({integers}) and integers have no gradient: pass the network of "
                    "floats that it was made from, or fv.BlackBox(model, as_torch=True) to fv.spectrum"
                )
            raise ValueError(
                "the logits do not depend on the images differentiably: look for detach() or no_grad(), integers "
                "or comparisons, or ask for answers alone, fv.spectrum(fv.BlackBox(model, as_torch=True), images)"
            )
        if torch.stack([slopes[0][1], slopes[1][0]]).nan_to_num().any():
            raise ValueError(_COUPLED)
        # One input alone is asked last: batch statistics may refuse it with words of their own.
        alone = _Pass(net, x[:1]) if alone is None else alone
        with torch.no_grad():
            one_by_one = torch.cat([alone.values, net.logits(x[1:])])
        if (values - one_by_one).abs().amax() > max(1e-2, 16 * eps) * size:
            raise ValueError(_COUPLED)
        ends = last_operations(judged.outputs)
        outputs = judged.outputs.detach().to(x.dtype)
        squashed = ends <= {"Sigmoid", "Hardsigmoid"} or _ends_in_sigmoid(net, outputs)
        net._wanted.check(outputs, ends, squashed, max(1e-4, eps))
        near = _close(alone.slope(0), slopes[0][:1], max(1e-4, 16 * eps))
        some = some if near else judged
        net.batched_vjp = _can_batch(some, max(1e-3, 4 * eps))
        slope = torch.stack([slopes[0][0], slopes[1][1]])
        plain = some is alone and traits.smooth and follows(_score(net), x, slope, _box(net, x), eps)
        if bool(slope.isfinite().all()) and not plain:
            _compare(net, judged, eps)
        if own != torch.float64 and net.device.type != "mps":
            wide = _in(net, torch.float64, some.x.detach())
            if wide is not None:
                net.smooth = traits.smooth and _rounds_little(net, some.values, wide.values)
                net.precise = not traits.smooth and _takes_float64_values(net, some.x, wide)
        # A kink may part the two in float32, but not in float64.
        if not near and net.has_float64:
            doubled = x.double()
            near = _close(_Pass(net, doubled[:1]).slope(0), _Pass(net, doubled).slope(0)[:1], 1e-6)
        net.alone = near
        net._draws = not torch.equal(before, _rng_state(net))
    net._writes, net._caches = restored.writes, restored.caches
    net._sizes = outputs.shape[1], values.shape[1]
    return squashed or bool(net.undescribed)


def _name(net: Classifier) -> None:
    """Note the names of the classes."""
    outputs, count = net._sizes
    names = [str(i) for i in range(count)] if net._names is None else net._names
    if outputs < count and len(names) == 1:
        names = [f"not {names[0]}", names[0]]
    if len(names) != count:
        raise ValueError(f"classes has {len(names)} names and the model has {count} outputs: give one name an output")
    net._names, net._probed = names, True


def _compare(net: Classifier, run: _Pass, eps: float) -> None:
    """Say so if the gradient at some inputs leaves much of what the answers do unexplained."""
    x = run.x.detach()
    share = unexplained(_score(net), x, run.scores.detach(), _box(net, x), eps)
    if share:
        net.undescribed = (
            f"the gradient does not describe this model: it leaves {100 * share:.0f} % of how the answers change "
            "unexplained, as where a network rounds, quantises, compares or detaches its input or a part of it"
        )
        tell(
            f"{net.undescribed}. What rests on gradients (λ₁, bounds at the inputs, margins, most attacks) says "
            "nothing of that: look for round, argmax, detach or comparisons before the first layer and leave them "
            "out, or ask for answers alone, fv.spectrum(fv.BlackBox(model, as_torch=True), images, step=…) with a "
            "step that is longer than the model's own"
        )


def _score(net: Classifier) -> Callable[[Tensor], Tensor]:
    def score(x: Tensor) -> Tensor:
        z = net.logits(x)
        return z @ torch.linspace(1, 2, z.shape[1]).to(z)

    return score


def _box(net: Classifier, x: Tensor) -> tuple[float, float]:
    """The smallest and largest value of an input."""
    low, high = net.input_range or (float(v) for v in x.aminmax())
    return low, high if high > low else low + 1


def _ends_in_sigmoid(net: Classifier, outputs: Tensor) -> bool:
    last = [m for m in net.model.modules() if next(m.children(), None) is None][-1]
    inside = bool(outputs.min() >= 0) and bool(outputs.max() <= 1)
    return isinstance(last, nn.Sigmoid) and inside


def _in(net: Classifier, dtype: torch.dtype, x: Tensor) -> _Pass | None:
    """A pass and back in a precision that the network's weights do not have, if it can; noted for `_outputs`."""
    net._dtypes.add(dtype)
    with suppress(*_REFUSALS):  # a dtype is written into the model's forward, or it computes again going back
        run = _Pass(net, x.to(dtype))
        if run.outputs.dtype == dtype:
            run.slope()
            return run
    net._dtypes.remove(dtype)
    return None


def _rounds_little(net: Classifier, values: Tensor, expected: Tensor) -> bool:
    """Whether logits are right to a few epsilons: where large numbers cancel, what is left has hidden the rounding."""
    eps = torch.finfo(values.dtype).eps
    return bool(((values - expected).abs().amax(1) <= _FEW * eps * (1 + net.likelihood.size(expected))).all())


def _takes_float64_values(net: Classifier, x: Tensor, expected: _Pass) -> bool:
    """Whether operations in float64 beneath a float32 graph give what the network gives in float64."""
    with suppress(*_REFUSALS):  # an operation that knows float32 alone
        with float64_values(recurrent=recurs(net.model)) as values:
            run = _Pass(net, x)
            got = values.of(run.outputs.detach())
        with Steady() as steady:
            ours = run.slope()
        return steady.yes and _close(got, expected.outputs.detach(), 1e-6) and _close(ours, expected.slope(), 1e-2)
    return False


def _rng_state(net: Classifier) -> Tensor:
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(net.device)]) if net.device.type == "cuda" else state


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm())


def _can_batch(run: _Pass, tolerance: float) -> bool:
    """Whether several cotangents can go back at once: not through custom or compiled backward passes."""
    z = run.z
    one, other = (torch.linspace(1, 2, z.shape[1]).to(z), torch.eye(1, z.shape[1])[0].to(z))
    cotangents = torch.stack([one, other])[:, None].expand(-1, *z.shape)

    def pull(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(z, run.x, cotangent, retain_graph=True)[0]

    first = run.slope()
    try:
        # grad's own is_grads_batched takes three times as long through convolutions of a single image.
        with warnings.catch_warnings(record=True) as slow:
            warnings.simplefilter("always")
            batched = torch.func.vmap(pull)(cotangents)
        # Fails where a hook retains gradients: that of the batch stays, and none is added to it.
        loop = torch.stack([first, pull(cotangents[1])])
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return False  # vmap has no rule for one of the model's backward functions: the loop is right, if slower
    if any("performance drop" in str(w.message) for w in slow):
        return False  # torch would loop itself, with a warning
    return bool((loop - batched).abs().amax() <= tolerance * loop.abs().amax())
