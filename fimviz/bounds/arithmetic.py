"""Rules for sums, products and averages of tensors, with constants and with each other."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from fimviz.bounds.active import Term
from fimviz.bounds.attention import written_out
from fimviz.bounds.flow import Flow, NoBoundError, NoRuleError, Scores, Step, log, log_norm, log_sum
from fimviz.bounds.heads import louder
from fimviz.bounds.norms import matrix_norm
from fimviz.bounds.rules import patient, rule
from fimviz.bounds.shapes import moved, turned
from fimviz.bounds.tokens import product


@patient
@rule(operator.add, operator.iadd, operator.sub, operator.isub, torch.add, torch.sub, torch.subtract, "add", "add_",
      "sub", "sub_", "__radd__", "__rsub__", torch.rsub)  # fmt: skip
def _add(step: Step, x: Any, y: Any, *, alpha: float = 1) -> Flow:
    """Bounds add; a constant adds nothing."""
    flows = [_broadcast(f, step.output.shape) for f in (x, y) if isinstance(f, Flow)]
    if alpha != 1 and isinstance(x if step.op is torch.rsub else y, Flow):
        at = 0 if step.op is torch.rsub else -1
        flows[at] = replace(flows[at].elementwise(abs(alpha), ""), note=None)
    if len(flows) == 1:
        (flow,) = flows
        return replace(
            flow, longest=None, origin=None, normed=False, note=("constant added", 0.0, "the Jacobian stays")
        )
    a, b = flows
    grid = None
    if a.grid is not None or b.grid is not None:
        grid = torch.logaddexp(*torch.broadcast_tensors(a.finest, b.finest))
    total = log_sum([a.total, b.total])
    on = None if a.on is None or b.on is None else a.on | b.on
    terms = None
    if step.pointwise:
        # What has passed an activation already is bounded as it is: its terms would be measured at every sum again.
        terms = tuple(t for f in (a, b) for t in _open(f))
    return Flow(total, grid=grid, on=on, terms=terms, note=("addition", None, "bounds add"))


def _open(x: Flow) -> tuple[Term, ...]:
    """The summands of a flow that wait for their first filter, or the flow as one summand."""
    if x.terms and all(t.slopes is None for t in x.terms):
        return x.terms
    return (Term(x.settled().total),)


def _broadcast(x: Flow, shape: torch.Size) -> Flow:
    """The flow at the shape of a result, with what repeating its elements costs."""
    if x.shape == shape:
        return x
    return replace(moved(x.settled(), lambda t: t.expand(shape)), shape=shape)


@patient
@rule(operator.mul, operator.imul, torch.mul, torch.multiply, "mul", "mul_", "__rmul__")
def _mul(step: Step, x: Any, y: Any) -> Flow:
    if isinstance(x, Flow) and isinstance(y, Flow):
        return _product(step, x.settled(), y.settled())
    flow, other = (x, y) if isinstance(x, Flow) else (y, x)
    return _by_constant(step, flow, other)


@patient
@rule(operator.truediv, operator.itruediv, torch.div, torch.divide, torch.true_divide, "div", "div_", "true_divide")
def _div(step: Step, x: Any, y: Any) -> Flow:
    if isinstance(y, Flow):
        return _quotient(x.settled() if isinstance(x, Flow) else x, y.settled())
    return _by_constant(step, x, 1 / y if not isinstance(y, Tensor) else y.detach().cpu().double().reciprocal())


def _by_constant(step: Step, x: Flow, c: Any) -> Flow:
    shape = step.output.shape
    c = torch.as_tensor(c).detach().cpu().double()
    wide = _broadcast(x, shape)
    long = [i + len(shape) - c.ndim for i, n in enumerate(c.shape) if n > 1]
    if not long:
        out = wide.elementwise(float(c.abs().max()), "the constant", kind="multiplication")
        factor = float(c.flatten()[0])
        scores = wide.scores and replace(wide.scores, scale=wide.scores.scale * factor)
        longest = wide.longest and (wide.longest[0] + log(abs(factor)), wide.longest[1])
        return replace(out, scores=scores, longest=longest, origin=louder(wide.origin, factor))
    if len(long) == 1:
        return wide.scaled(long[0], c.flatten(), "the largest constant", kind="multiplication")
    local = c.abs().expand(shape)
    return wide.elementwise(float(c.abs().max()), "the largest constant", kind="multiplication", local=local)


def _product(step: Step, x: Flow, y: Flow) -> Flow:
    """d(uv) = v du + u dv: each factor's values are the other's gain."""
    if x.value is None or y.value is None:
        raise NoBoundError("a product of two tensors that both depend on the input has a bound only at a given x")
    total = log_sum([_gain(u, v) + u.total for u, v in ((x, y.value), (y, x.value))])
    return Flow(total, note=("product", None, "‖v‖·a_u + ‖u‖·a_v with the values at x"))


def _quotient(x: Any, y: Flow) -> Flow:
    """d(u/v) = du/v − (u/v²) dv, with the values at x; where v may be 0 it is steep without limit."""
    if y.value is None or (isinstance(x, Flow) and x.value is None):
        raise NoBoundError("a division by what depends on the input has a bound only at a given x")
    v = y.value.cpu().double()
    if not (v.abs() > y.off).all():
        raise NoBoundError("a division by what is 0 at this x, but for rounding")
    numerator = x.value if isinstance(x, Flow) else x
    u = torch.as_tensor(numerator).detach().cpu().double()
    total = _gain(y, u / v.square()) + y.total
    if isinstance(x, Flow):
        total = log_sum([total, _gain(x, 1 / v) + x.total])
    return Flow(total, note=("quotient", None, "a_u/|v| + |u/v²|·a_v with the values at x"))


def _gain(u: Flow, v: Tensor) -> float:
    """The logarithm of ‖du ↦ v du‖; where v repeats the elements of u, the largest norm of what meets one element."""
    v = v.cpu().double()
    shape = torch.broadcast_shapes(u.shape, v.shape)
    squares = v.expand(shape).square()
    padded = (1,) * (len(shape) - len(u.shape)) + tuple(u.shape)
    axes = [i for i, n in enumerate(shape) if padded[i] == 1 and n > 1]
    if axes:
        squares = squares.sum(axes)
    return 0.5 * log(float(squares.amax())) + 1e-9


@rule(torch.addcmul, "addcmul", "addcmul_")
def _addcmul(step: Step, x: Any, u: Any, v: Any, *, value: float = 1) -> Flow:
    """A sum with a product, x + c·u·v."""
    if not any(isinstance(t, Flow) for t in (u, v)):
        return _add(step, x, torch.zeros(()))
    shape = torch.broadcast_shapes(u.shape, v.shape)
    inner = _mul(replace(step, output=torch.empty(shape, device="meta")), u, v)
    return _add(step, x, replace(inner, shape=shape), alpha=value)


@rule(torch.maximum, torch.minimum, "maximum", "minimum", torch.where, "where")
def _either(step: Step, *tensors: Any) -> Flow:
    """Every element is one of two, or their mean where they tie: √(a² + b²), a against a constant."""
    if step.op is torch.where or step.op == "where":
        tensors = tuple(t for t in tensors if not (isinstance(t, Tensor) and t.dtype == torch.bool))
    flows = [_broadcast(t.settled(), step.output.shape) for t in tensors if isinstance(t, Flow)]
    return Flow(log_norm([f.total for f in flows]), note=("choice", None, "bounds add in squares"))


@rule(torch.mean, torch.sum, "mean", "sum")
def _mean(step: Step, x: Flow, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Flow:
    """1/√m for a mean of m elements, √m for a sum."""
    name = step.op if isinstance(step.op, str) else step.op.__name__
    dim = kwargs.pop("axis", dim)
    axes = (
        list(range(len(x.shape)))
        if dim is None or dim in ([], ())  # torch takes an empty list for all
        else [d % len(x.shape) for d in ([dim] if isinstance(dim, int) else dim)]
    )
    gain, grid = _mean_gain(x, axes, name == "mean")
    if grid is not None and not (keepdim or kwargs.get("keepdim")):
        grid = grid.reshape([n for i, n in enumerate(grid.shape) if i not in axes])
    words = "1/√m over m elements" if name == "mean" else "√m over m elements"
    note = (name, log(gain), words)
    channels = None
    if x.channels is not None and x.channels.axis == 1 and 0 not in axes and 1 not in axes:
        channels = x.channels.louder(log(gain))
    total = x.total + log(gain)
    on = None if x.on is None else x.on.double().amax(axes, bool(keepdim or kwargs.get("keepdim"))) > 0
    return Flow(total if grid is None else min(total, log_norm(grid)), channels=channels, grid=grid, on=on, note=note)


def _mean_gain(x: Flow, axes: list[int], average: bool) -> tuple[float, Tensor | None]:
    """‖·‖ of a sum or mean over axes, and what remains of a grid."""
    count = math.prod(x.shape[a] for a in axes)
    gain = 1 / math.sqrt(count) if average else math.sqrt(count)
    if x.grid is None:
        return gain, None
    collective = [a for a in axes if x.grid.shape[a] == 1]
    single = [a for a in axes if x.grid.shape[a] > 1]
    up = 0.5 * log(math.prod(x.shape[a] for a in collective))
    grid = x.grid + up
    for a in single:
        grid = torch.logsumexp(grid, a, keepdim=True)
    return gain, grid - (log(count) if average else 0.0)


@rule(torch.amax, torch.max, torch.amin, torch.min, "amax", "max", "amin", "min")
def _max(step: Step, x: Flow, *args: Any, **kwargs: Any) -> Any:
    """Every output copies an element, no element is copied twice."""
    if any(isinstance(a, (Flow, Tensor)) for a in (*args, *kwargs.values())):
        raise NoRuleError("the larger of two tensors: write a rule for the module that uses it")
    out = x.times(1.0, "a choice of elements", kind="maximum")
    return out if isinstance(step.output, Tensor) else (out, None)


@rule(torch.matmul, torch.bmm, operator.matmul, "matmul", "bmm", "__matmul__", "__rmatmul__", torch.mm, "mm")
def _matmul(step: Step, x: Any, y: Any) -> Flow:
    if step.op == "__rmatmul__":
        x, y = y, x
    if isinstance(x, Flow) and isinstance(y, Flow):
        if x.scores is not None and x.scores.softmaxed:
            return written_out(x, y)
        return replace(product(step, x, y), scores=_scores(x, y))
    flow, other = (x, y) if isinstance(x, Flow) else (y, x)
    if other.ndim < 2 or len(flow.shape) < 2:
        raise NoRuleError("a product with a vector: write a rule for the module that holds it")
    # Where the flow is repeated for matrices of their own, they act as one matrix with the rows of all.
    lead = step.output.shape[:-2]
    given = (1,) * (len(lead) + 2 - len(flow.shape)) + tuple(flow.shape)
    repeated = [i for i, n in enumerate(lead) if n > given[i]]
    other = other.reshape((1,) * (len(lead) + 2 - other.ndim) + tuple(other.shape))
    other = (other if flow is y else other.mT).movedim(repeated, list(range(len(lead) - len(repeated), len(lead))))
    other = other.flatten(len(lead) - len(repeated), -2)
    return flow.times(matrix_norm(other), "‖C‖ of the constant factor", kind="product with a constant")


def _scores(x: Flow, y: Flow) -> Scores | None:
    """The product of queries and keys, as it may turn out to be."""
    if len(x.shape) != len(y.shape) or len(x.shape) < 3 or x.shape[:-2] != y.shape[:-2]:
        return None
    return Scores(x, turned(y, lambda t: t.mT))


@rule(torch.baddbmm, "baddbmm")
def _baddbmm(step: Step, given: Any, x: Any, y: Any, *, beta: float = 1, alpha: float = 1) -> Flow:
    """β·C + α·XY with a constant C."""
    if isinstance(given, Flow):
        raise NoRuleError("a product added to what depends on the input: write a rule for the module that holds it")
    return _by_constant(step, replace(_matmul(step, x, y), shape=step.output.shape), alpha)


@rule("masked_fill", "masked_fill_", torch.masked_fill)
def _masked_fill(step: Step, x: Any, mask: Any, value: Any) -> Flow:
    """Elements replaced by a constant."""
    if any(isinstance(a, Flow) for a in (mask, value)) or not isinstance(x, Flow):
        raise NoRuleError("a mask or a filling that depends on the input: write a rule for the module that holds it")
    wide = _broadcast(x, step.output.shape)
    free = ~mask.detach().cpu().expand(step.output.shape)
    scores = wide.scores and replace(wide.scores, live=free if wide.scores.live is None else free & wide.scores.live)
    if not step.pointwise and float(value) > _NEVER:
        scores = None  # a softmax may give what is filled in a weight
    on = None if not step.pointwise else free if wide.on is None else free & wide.on
    return replace(wide, on=on, longest=None, origin=None, terms=None, scores=scores, normed=False,
                   note=("masking", 0.0, "constants in the place of elements"))  # fmt: skip


_NEVER = -1e30  # scores this low get no weight beside any other


@rule(torch.einsum, torch.functional.einsum)
def _einsum(step: Step, equation: str, *operands: Any) -> Flow:
    """A product of matrices whose axes are in another order; every letter once an operand."""
    if len(operands) != 2 or "..." in equation or "->" not in equation:
        raise NoRuleError(f"the product {equation!r}: write a rule for the module that holds it")
    inputs, out = equation.replace(" ", "").split("->")
    a, b = inputs.split(",")
    lead = [c for c in out if c in a and c in b]
    rows, columns = ([c for c in out if c in one and c not in lead] for one in (a, b))
    inner = [c for c in a if c in b and c not in out]
    if any(len(set(t)) < len(t) for t in (a, b, out)) or len(inner) != 1 or len(rows) != 1 or len(columns) != 1 or (
        set(a) - set(out) - set(inner) or set(b) - set(out) - set(inner)
    ):  # fmt: skip
        raise NoRuleError(f"the product {equation!r}: write a rule for the module that holds it")

    def ordered(t: Any, letters: str, order: list[str]) -> Any:
        axes = [letters.index(c) for c in order]
        if axes == sorted(axes):
            return t
        return turned(t, lambda v: v.permute(axes)) if isinstance(t, Flow) else t.permute(axes)

    x, y = ordered(operands[0], a, [*lead, *rows, *inner]), ordered(operands[1], b, [*lead, *inner, *columns])
    order = [[*lead, *rows, *columns].index(c) for c in out]
    back = [order.index(i) for i in range(len(order))]
    output = step.output.permute(back)
    flow = _matmul(replace(step, op=torch.matmul, output=output), x, y)
    value = output.detach() if step.pointwise else None
    flow = replace(flow, shape=output.shape, value=value)
    return flow if order == sorted(order) else moved(flow, lambda t: t.permute(order))
