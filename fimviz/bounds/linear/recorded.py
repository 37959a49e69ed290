"""A network from pixels to logits as steps that are affine, bend, take a largest number, or have no linear bounds.

It is recorded in ATen's operations, in float64 and for one input, from the graph that the older bounds are carried
over: so a layer is known by what it computes and not by the module that it was written as, and normalisation is a step
like any other. The transpose of an affine step is its vector–Jacobian product, which torch knows.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fimviz.bounds.flow import NoRuleError
from fimviz.bounds.linear.affine import GATHERING, PRODUCTS, Affine, affine, first, is_affine, normalised
from fimviz.bounds.linear.curves import CURVES, Curve
from fimviz.bounds.network import check
from fimviz.bounds.tracing import first_line, trace
from fimviz.model.at_rest import in_dtype
from fimviz.model.classifier import Classifier, _tensor_of
from fimviz.model.models import called

aten = torch.ops.aten
_SHAPES = {"full_like", "zeros_like", "ones_like", "empty_like", "new_zeros", "new_ones", "new_full", "new_empty"}
_GROWTH = 1e200
VANISHING = 1e-60  # more than that times all that underflows in sums of as many terms as there are
_WAITS = -1  # no place of a step
_POOLS = {"max_pool2d_with_indices": 4, "max_pool3d_with_indices": 5}  # and the axes of what they read
_LARGE = 1e90  # pixels: times what underflows in a norm, still less than `VANISHING`


@dataclass(frozen=True, eq=False)
class Largest:
    """The largest number of every window; `places` (outputs, window) are those in the input, and may repeat."""

    places: Tensor


@dataclass(frozen=True, eq=False)
class Step:
    """What the network does next: `reads` are places of earlier steps, of which 0 is the input."""

    name: str
    shape: torch.Size
    reads: tuple[int, ...]
    does: Affine | Curve | Largest | None


def recorded(net: Classifier, x: Tensor) -> list[Step]:
    """The steps of a network at rest for inputs of the shape of x (n, …), up to the logits; the first is the input.

    Raises:
        NoRuleError: an operation that no linear bound is known of; the message names it.
    """
    largest = max(map(abs, (float(x.min()), float(x.max()), *(net.input_range or ()))))
    if not largest < _LARGE:
        raise NoRuleError(f"no linear bounds of pixels as large as {largest:.0e}")
    traced, x = trace(net, x), x[:1].to(net.device).double()

    def logits(x: Tensor) -> Tensor:
        return net.read_out(_tensor_of(traced(net.normalised(x))))

    with in_dtype(net.model, torch.float64), in_dtype(traced, torch.float64), torch.no_grad():
        try:
            graph = make_fx(torch.func.functionalize(logits, remove="mutations"))(x)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever the model's code raises on tensors that write down what is done to them
            raise NoRuleError(f"torch cannot record the operations of the network ({first_line(error)})") from error
        z = net.read_out(_tensor_of(called(net.model, net.normalised(x)))).cpu()
        x = x.cpu()
        steps = _steps(_on_processor(graph), x)
        for step in steps:
            if not step.shape.numel():
                raise NoRuleError(f"no linear bounds of {step.name} without a number")
            _try(steps, step)
        _check_growth(steps, x)
    check(z, values(steps, x.flatten(1))[-1].view_as(z))
    return steps


def _on_processor(graph: fx.GraphModule) -> fx.GraphModule:
    """Without what nothing reads, and without calls that name another device."""
    graph.graph.eliminate_dead_code()
    for node in graph.graph.nodes:
        if "device" in node.kwargs:
            node.kwargs = {**node.kwargs, "device": torch.device("cpu")}
    return graph


def values(steps: Sequence[Step], x: Tensor) -> list[Tensor]:
    """What every step gives of flat inputs (n, d), flat."""
    found = [x]
    for step in steps[1:]:
        given = [found[r].reshape(len(x), *steps[r].shape) for r in step.reads]
        if isinstance(step.does, Largest):
            out = found[step.reads[0]][:, step.does.places].amax(2)
        else:
            assert step.does is not None
            out = torch.func.vmap(step.does.run)(*given) if isinstance(step.does, Affine) else step.does.run(given[0])
        found.append(out.reshape(len(x), -1))
    return found


def _check_growth(steps: Sequence[Step], x: Tensor) -> None:
    """Refuse weights through which a row that leaves double precision could come back as more than `VANISHING`."""
    found, growth = values(steps, x.flatten(1)), [1.0]
    for step, value in zip(steps[1:], found[1:], strict=True):
        read = [torch.full(steps[r].shape, growth[r], dtype=torch.float64) for r in step.reads]
        if isinstance(step.does, Affine):
            grown = float(step.does.magnitude(*read).amax())
        else:
            bends = isinstance(step.does, Curve) and step.does.bend > 0
            grown = growth[step.reads[0]] * (2.0 + bends * float(value.abs().amax()))
        if not grown < _GROWTH:
            raise NoRuleError(
                f"no linear bounds of weights by which numbers may grow 1e200 times as large ({step.name})"
            )
        growth.append(max(grown, 1e-300))


def _try(steps: Sequence[Step], step: Step) -> None:
    """Refuse an operation that torch cannot transpose, or not for many rows together."""
    if not isinstance(step.does, Affine):
        return
    zeros = [torch.zeros(steps[r].shape, dtype=torch.float64) for r in step.reads]
    try:
        pull = torch.func.vjp(step.does.run, *zeros)[1]
        torch.func.vmap(pull)(torch.zeros(1, *step.shape, dtype=torch.float64))
        torch.func.vmap(step.does.magnitude)(*(z[None] for z in zeros))
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, NotImplementedError) as error:
        raise NoRuleError(
            f"no linear bounds of {step.name}, which torch cannot transpose: {first_line(error)}"
        ) from error


def _steps(graph: fx.GraphModule, x: Tensor) -> list[Step]:
    values: dict[fx.Node, Any] = {}  # at x; those of constants hold at every x
    places: dict[fx.Node, int] = {}
    steps: list[Step] = []
    last = None
    for node in graph.graph.nodes:
        if node.op == "placeholder":
            values[node], places[node] = x, 0
            steps.append(Step("the input", x.shape, (), None))
        elif node.op == "get_attr":
            values[node] = getattr(graph, node.target).detach().cpu()
        elif node.op == "output":
            last = node.args[0]
        else:
            values[node] = _run(node, values)
            if any(source in places for source in node.all_input_nodes) and _name(node) not in _SHAPES:
                places[node] = _append(node, values, places, steps)
    if last not in places:
        raise NoRuleError("the logits do not depend on the input in the traced graph")
    return steps[: places[last] + 1]


def _name(node: Any) -> str:
    return getattr(node.target, "overloadpacket", node.target).__name__


def _run(node: Any, values: dict[fx.Node, Any]) -> Any:
    args, kwargs = fx.node.map_arg((node.args, node.kwargs), values.__getitem__)
    return node.target(*args, **kwargs)


def _append(node: Any, values: dict[fx.Node, Any], places: dict[fx.Node, int], steps: list[Step]) -> int:
    """The place of what a call returns, or of its first item; −1 for what waits to be read with its reader."""
    name, out = _name(node), values[node]
    if _waits(node) or isinstance(out, list):
        return _WAITS
    if name == "native_batch_norm" and _waits(node.args[0]):
        (source,) = [n for n in node.args[0].all_input_nodes if n in places]
        does = normalised(node.args[0], node, values)
        steps.append(Step(name, out[0].shape, (places[source],), does))
        return len(steps) - 1
    if node.target is operator.getitem:
        made, which = node.args
        if not isinstance(values[made], list):
            return places[made] if which == 0 else _WAITS  # what a pool or a normalisation remembers
        if _name(made) not in GATHERING:
            raise NoRuleError(f"no linear bounds of {_name(made)} are known")
        sources = [n for n in made.all_input_nodes if n in places]
        whole = affine(made, _name(made), sources, values, which)
        steps.append(Step(_name(made), out.shape, tuple(places[s] for s in sources), whole))
        return len(steps) - 1
    sources = list(dict.fromkeys(source for source in node.all_input_nodes if source in places))
    reads = tuple(places[source] for source in sources)
    if _WAITS in reads:
        raise NoRuleError(f"no linear bounds of what {name} reads are known")
    if first(out).dtype != torch.float64:  # whole numbers go in steps, and a float32 rounds by more than is counted
        raise NoRuleError(f"no linear bounds of {name} to {first(out).dtype} are known")
    shape = first(out).shape
    steps.append(Step(name, shape, reads, _kind(node, name, sources, values)))
    return len(steps) - 1


def _waits(node: Any) -> bool:
    """Whether a convolution is read by a normalisation alone, with which it is one."""
    if not isinstance(node, fx.Node) or node.target is not aten.convolution.default or len(node.users) != 1:
        return False
    (user,) = node.users
    if user.target is not aten.native_batch_norm.default or user.args[0] is not node or user.args[5]:
        return False
    given: Any = node.args
    fixed: Any = (*given[1:3], *user.args[1:5])
    return all(a.op == "get_attr" for a in fixed if a is not None) and given[0].op != "get_attr"


def _kind(node: Any, name: str, sources: list[fx.Node], values: dict[fx.Node, Any]) -> Affine | Curve | Largest:
    bare = name.removesuffix("_")
    if bare in CURVES and len(sources) == 1 and node.args[0] is sources[0]:
        given = [values.get(a, a) if isinstance(a, fx.Node) else a for a in node.args[1:]]
        plain = not any(isinstance(g, Tensor) for g in given)
        if plain and (curve := CURVES[bare](*given, **node.kwargs)) is not None:
            return curve
    if len(values[sources[0]].shape) == _POOLS.get(name):
        return Largest(_windows(values[sources[0]].shape, values[node][0].shape, *node.args[1:], **node.kwargs))
    if is_affine(node, bare, sources):
        return affine(node, bare, sources, values)
    raise NoRuleError(
        f"no linear bounds of {name} are known"
        + (" where both of what it multiplies depend on the input" if bare in PRODUCTS else "")
    )


def _windows(shape: torch.Size, out: torch.Size, kernel: Any, stride: Any = (), padding: Any = 0,
             dilation: Any = 1, ceil_mode: bool = False) -> Tensor:  # fmt: skip
    """What a pool's outputs take the largest of; a window's last place stands for those beyond the edges."""
    axes = len(shape) - 2

    def each(value: Any) -> list[int]:
        return [value] * axes if isinstance(value, int) else list(value) * (axes if len(value) == 1 else 1)

    kernel, padding, dilation = each(kernel), each(padding), each(dilation)
    stride = each(stride) if stride else kernel
    grid = torch.arange(shape.numel()).view(shape)
    beyond = [s * (o - 1) + d * (k - 1) + 1 for s, o, d, k in zip(stride, out[2:], dilation, kernel, strict=True)]
    ends = [max(0, b - n - p) for b, n, p in zip(beyond, shape[2:], padding, strict=True)]
    sides = [side for p, end in zip(reversed(padding), reversed(ends), strict=True) for side in (p, end)]
    grid = torch.nn.functional.pad(grid, sides, value=-1)
    for axis, (k, s, d, o) in enumerate(zip(kernel, stride, dilation, out[2:], strict=True), 2):
        grid = grid.unfold(axis, d * (k - 1) + 1, s)[..., ::d].narrow(axis, 0, o)
    places = grid.reshape(out.numel(), -1)
    return torch.where(places < 0, places.amax(1, keepdim=True), places)
