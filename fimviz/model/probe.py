"""What the first call asks of a model: two inputs, by which it is refused, with the reason, or understood.

What passes may rely on afterwards (several cotangents at once, float64, one input alone) is noted in the classifier.
"""

from __future__ import annotations

import warnings
from contextlib import suppress
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fimviz._tell import tell
from fimviz.model.at_rest import recurs
from fimviz.model.described import unexplained
from fimviz.model.models import last_operations, quantised
from fimviz.model.precise import Steady, Traits, float64_values

if TYPE_CHECKING:
    from fimviz.model.classifier import Classifier

_PART = 16  # inputs at a time, of a batch that begins with some at which the model cannot be judged
_FEW = 32  # machine epsilons; random networks had up to 22
_REFUSALS = RuntimeError, TypeError, ValueError, AssertionError  # what models and torch say to a dtype they do not know


def probe(net: Classifier, images: Tensor) -> None:
    """Refuse a model whose Fisher information would not mean what it says; note what its passes can do."""
    try:
        _probe(net, _sound(net, images)[:2].to(net.device))
    except RuntimeError as error:
        if "use_reentrant" not in str(error):
            raise
        raise ValueError(
            "the model computes parts of it again by reentrant checkpoints, which cannot be differentiated "
            "toward the input: call torch.utils.checkpoint with use_reentrant=False"
        ) from error


def _sound(net: Classifier, x: Tensor) -> Tensor:
    """The first two inputs or one with finite logits and slopes, by which the model is judged; else the first."""
    found = x[:0]
    with net.at_rest():
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
    return found if len(found) else x


def _probe(net: Classifier, pair: Tensor) -> None:
    """Refuse a model whose Fisher information would not mean what it says; at most two inputs, once."""
    if len(pair) == 1:
        pair = torch.cat([pair, 0.25 * pair + 0.5 * pair.flip(-1)])
    with net.at_rest() as restored:
        before = _rng_state(net)
        own = net._weight_dtype
        eps = torch.finfo(torch.float32 if own.itemsize < 4 and _runs_in(net, torch.float32, pair) else own).eps
        x = pair.requires_grad_()
        outputs = net._outputs(x)
        net.likelihood = net._wanted.of(outputs.shape[1])
        z = net.logits(x)
        with Traits(pair) as traits:
            again = net.logits(pair).detach()
        values = z.detach()
        if not values.isfinite().all():
            raise ValueError(
                "the model returns NaN or infinite logits for these images, expected finite ones: look at its "
                "weights and at mean= and std="
            )
        size = values.abs().amax().clamp_min(1e-6)
        if (values - again).abs().amax() > max(1e-4, eps) * size:
            raise ValueError(
                "the model is random in evaluation mode: two calls on the same images differ. "
                "Look for dropout or noise that ignores model.eval()"
            )
        sums = z @ torch.linspace(1, 2, z.shape[1]).to(z)  # plain sums are constant where the outputs are centred
        slopes = [torch.autograd.grad(s, x, retain_graph=True, allow_unused=True)[0] for s in sums if z.requires_grad]
        if not slopes or slopes[0] is None:
            if integers := quantised(net.model):
                raise ValueError(
                    f"the model is quantised ({integers}) and integers have no gradient: pass the network of "
                    "floats that it was made from, or fv.BlackBox(model, as_torch=True) to fv.spectrum"
                )
            raise ValueError(
                "the logits do not depend on the images differentiably: look for detach() or no_grad(), integers "
                "or comparisons, or ask for answers alone, fv.spectrum(fv.BlackBox(model, as_torch=True), images)"
            )
        across = torch.stack([slopes[0][1], slopes[1][0]]).nan_to_num()
        # One input alone is asked last: batch statistics may refuse it with words of their own.
        one_by_one = [] if across.any() else [_sloped(net, one.detach()) for one in pair.split(1)]
        away = values - torch.cat([z for z, _ in one_by_one] or [values])
        if across.any() or away.abs().amax() > max(1e-2, 16 * eps) * size:
            raise ValueError(
                "the inputs of a batch influence each other, so a Fisher information of one input does not "
                "exist. Look for batch statistics that ignore model.eval()"
            )
        given = outputs.detach().to(x.dtype)
        ends = last_operations(outputs)
        squashed = ends <= {"Sigmoid", "Hardsigmoid"} or _ends_in_sigmoid(net, given)
        net._wanted.check(given, ends, squashed, max(1e-4, eps))
        net.batched_vjp = _can_batch(z, x, max(1e-3, 4 * eps))
        if all(slope.isfinite().all() for slope in (slopes[0][0], slopes[1][1])):
            _compare(net, pair.detach(), eps)
        if own != torch.float64 and net.device.type != "mps":
            wide = _runs_in(net, torch.float64, pair)
            net.smooth = wide and traits.smooth and _rounds_little(net, pair.detach(), values)
            net.precise = wide and not traits.smooth and _takes_float64_values(net, pair.detach())
        # A kink may part the two in float32, but not in float64.
        alike = _close(one_by_one[0][1], slopes[0][0], max(1e-4, 16 * eps))
        if not alike and net.has_float64:
            doubled = pair.detach().double()
            alike = _close(_sloped(net, doubled[:1])[1], _sloped(net, doubled)[1], 1e-6)
        net.alone = alike
        net._draws = not torch.equal(before, _rng_state(net))
    net._writes, net._caches = restored.writes, restored.caches
    names = [str(i) for i in range(z.shape[1])] if net._names is None else net._names
    if outputs.shape[1] < z.shape[1] and len(names) == 1:
        names = [f"not {names[0]}", names[0]]
    if len(names) != z.shape[1]:
        raise ValueError(
            f"classes has {len(names)} names and the model has {z.shape[1]} outputs: give one name an output"
        )
    net._names, net._probed = names, True


def _compare(net: Classifier, x: Tensor, eps: float) -> None:
    """Say so if the gradient at inputs x leaves much of what the answers do unexplained."""

    def score(some: Tensor) -> Tensor:
        z = net.logits(some)
        return z @ torch.linspace(1, 2, z.shape[1]).to(z)

    low, high = net.input_range or (float(v) for v in x.aminmax())
    share = unexplained(score, x, (low, high if high > low else low + 1), eps)
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


def _ends_in_sigmoid(net: Classifier, outputs: Tensor) -> bool:
    last = [m for m in net.model.modules() if next(m.children(), None) is None][-1]
    inside = bool(outputs.min() >= 0) and bool(outputs.max() <= 1)
    return isinstance(last, nn.Sigmoid) and inside


def _runs_in(net: Classifier, dtype: torch.dtype, x: Tensor) -> bool:
    """Whether the network can run in a precision that its weights do not have; noted for `_outputs`."""
    net._dtypes.add(dtype)
    x = x.detach().to(dtype).requires_grad_()
    with suppress(*_REFUSALS):  # a dtype is written into the model's forward, or it computes again going back
        z = net._outputs(x)
        if z.dtype == dtype:
            torch.autograd.grad(z.sum(), x)
            return True
    net._dtypes.remove(dtype)
    return False


def _rounds_little(net: Classifier, x: Tensor, values: Tensor) -> bool:
    """Whether logits are right to a few epsilons: where large numbers cancel, what is left has hidden the rounding."""
    with torch.no_grad():
        expected = net.logits(x.double())
    eps = torch.finfo(values.dtype).eps
    return bool(((values - expected).abs().amax(1) <= _FEW * eps * (1 + net.likelihood.size(expected))).all())


def _takes_float64_values(net: Classifier, x: Tensor) -> bool:
    """Whether operations in float64 beneath a float32 graph give what the network gives in float64."""
    x, wide = x.clone().requires_grad_(), x.double().requires_grad_()
    expected = net._outputs(wide)
    with suppress(*_REFUSALS):  # an operation that knows float32 alone
        with float64_values(recurrent=recurs(net.model)) as values:
            z = net._outputs(x)
            got = values.of(z.detach())
        # Plain sums are constant where the outputs are centred. Made here, as its way to a card is not the model's.
        c = torch.linspace(1, 2, z.shape[1]).to(z).expand_as(z)
        with Steady() as steady:
            ours = torch.autograd.grad(z, x, c)[0]
        theirs = torch.autograd.grad(expected, wide, c.to(expected))[0]
        return steady.yes and _close(got, expected.detach(), 1e-6) and _close(ours, theirs, 1e-2)
    return False


def _sloped(net: Classifier, x: Tensor) -> tuple[Tensor, Tensor]:
    """The logits of inputs, and the gradient at the first of a sum of its logits."""
    x = x.clone().requires_grad_()
    z = net.logits(x)
    return z.detach(), torch.autograd.grad(z[0] @ torch.linspace(1, 2, z.shape[1]).to(z), x)[0][0]


def _rng_state(net: Classifier) -> Tensor:
    state = torch.get_rng_state()
    return torch.cat([state, torch.cuda.get_rng_state(net.device)]) if net.device.type == "cuda" else state


def _close(a: Tensor, b: Tensor, tolerance: float) -> bool:
    return bool((a - b).norm() <= tolerance * b.norm())


def _can_batch(z: Tensor, x: Tensor, tolerance: float) -> bool:
    """Whether several cotangents can go back at once: not through custom or compiled backward passes."""
    cotangents = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:2, None].expand(-1, *z.shape)

    def pull(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(z, x, cotangent, retain_graph=True)[0]

    loop = torch.stack([pull(c) for c in cotangents])
    try:
        # grad's own is_grads_batched takes three times as long through convolutions of a single image.
        with warnings.catch_warnings(record=True) as slow:
            warnings.simplefilter("always")
            batched = torch.func.vmap(pull)(cotangents)
        pull(cotangents[0])  # fails where a hook retains gradients: that of the batch stays, and none is added to it
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError):
        return False  # vmap has no rule for one of the model's backward functions: the loop is right, if slower
    if any("performance drop" in str(w.message) for w in slow):
        return False  # torch would loop itself, with a warning
    return bool((loop - batched).abs().amax() <= tolerance * loop.abs().amax())
