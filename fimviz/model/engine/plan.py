"""How much of a computation fits the memory at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fimviz.model.engine.memory import enough

if TYPE_CHECKING:
    from fimviz.model.classifier import Classifier

_CPU_WORK = 2**26  # bytes of the largest activation over a batch of passes
_FEW = 4  # inputs of an iteration that are taken together, however large
_TOGETHER = 64  # inputs in a batch of passes there and back, beyond which nothing is gained
_STEPS = 32  # of paths in a batch of passes on a processor: more leave its caches
_LEFT = {"mm": 0, "bmm": 0, "addmm": 1, "baddbmm": 1}  # of products of matrices: which argument is the first of two
_COPIES = 6  # times what a pass keeps, that attacks take for an input


def plan(
    net: Classifier,
    x: Tensor,
    k: int,
    vectors: bool,
    rows: int,
    twice: bool,
    precise: bool,
    max_memory: float | None,
    passes: torch.dtype | None = None,
    mend: str = "use smaller images",
    sharpens: bool = False,
) -> tuple[int, int]:
    """How many inputs, and how many cotangents at a time, fit the memory and keep the processor busy.

    k eigenvectors are kept and `rows` rows of A at a time; `twice` is for the graph of a graph, `passes` their
    precision where it is not that of x; `mend` is what helps, other than more memory, where one input does not fit.
    `sharpens` says that some may be taken again in float64, one at a time if need be.
    """
    passes = passes or x.dtype
    saved, largest, patches, _ = footprint(net, x[:1].to(net.device))
    saved, largest = (size * passes.itemsize // x.dtype.itemsize for size in (saved, largest))
    size, classes = x[0].numel(), len(net.classes)
    width = passes.itemsize
    kept = 2 * len(x) * x.dtype.itemsize * size * k if vectors and net.device.type == "cpu" else 0
    # What was measured as peaks (tests/fisher/test_spectrum.py, tests/benchmarks/memory.py): copies of weights in
    # another precision, float64's values in the forward pass and after them the tape, or graphs of graphs where there
    # can be none, float64 inputs, rows, vectors in float64 on their way.
    weights = [t for t in (*net.model.parameters(), *net.model.buffers()) if t.is_floating_point()]
    copies = sum(t.numel() * (8 * (precise or sharpens) + width * (t.dtype != passes)) for t in weights)
    graphs, bent = 2 * (precise or twice), 9 * saved * twice
    own = saved * (1 + graphs) + bent * (net.repeatable is False)
    own += (
        24 * size
        + (1 if twice else 2) * width * rows * size
        + (40 * k * size if vectors or twice else 0)
        + 8 * 8 * rows * classes
    )
    one_pass = (2 if twice else 1) * (4 * largest + (patches if width == 8 else 0))
    one_input = own + max(one_pass, precise * (8 * largest + patches))
    aside = copies + sharpens * one_input + kept // 2
    need = max(kept, aside + one_input)
    what = f"{rows} gradients of {size} values at one input"
    if vectors:
        what += f" and {k} eigenvectors of {len(x)}"
    if kept >= need / 2:
        mend = "ask for fewer eigenvectors with k= or vectors=False, or pass fewer images"
    room = enough(need, net.device, max_memory, what, mend) - aside
    # A processor's caches, not its memory, bound the useful batch of passes; a GPU wants all that fits.
    if net.device.type == "cpu":
        # An iteration goes on until the slowest input of a batch has converged, so that small batches waste less; one
        # photograph alone leaves the cores waiting between its operations.
        inputs = max(_FEW if twice else 1, min(128, (_CPU_WORK // 16 if twice else _CPU_WORK) // largest))
        at_once = min(32, _CPU_WORK // 16 // largest)  # beyond this, one VJP after the other is as quick or quicker
    else:
        inputs = at_once = 4096
    # Whether there are tapes is known after the first product: until then there is room for graphs, beyond one input.
    inputs = _fitting(net, room, one_input + bent * (net.repeatable is None), min(inputs, len(x)))
    cotangents = max(1, min(rows, at_once // inputs, int((room / inputs - own) / one_pass)))
    return inputs, cotangents


def there_and_back(net: Classifier, x: Tensor, max_memory: float | None = None) -> int:
    """How many inputs of passes forward, and of one back from each, fit the memory: attacks take no more."""
    saved, largest, *_ = footprint(net, x[:1].to(net.device))
    need = saved + 4 * largest
    room = enough(need, net.device, max_memory, "a pass over one input and back", "use smaller images")
    return _fitting(net, room, _COPIES * saved, _TOGETHER)


def steps_together(net: Classifier, x: Tensor, rows: int, twice: bool, max_memory: float | None) -> int:
    """How many paths can take a step together, with `rows` gradients each; `twice` for the graph of a graph."""
    saved, largest, *_ = footprint(net, x[:1].to(net.device))
    one = saved * (4 if twice else 1) + 4 * largest + 3 * rows * x[0].numel() * x.dtype.itemsize
    mend = "use smaller images" + ("" if twice else ", or solver='cg'")
    room = enough(one, net.device, max_memory, "a step of one path", mend)
    return _fitting(net, room, one, _STEPS if net.device.type == "cpu" else 4096)


def _fitting(net: Classifier, room: float, one: float, most: int) -> int:
    least = 1 if net.alone else 2  # there one alone costs as much as two
    return max(least, min(most, int(room / one)))


class _Products(TorchDispatchMode):
    """What convolutions and products of matrices take.

    Attributes:
        patches: the most bytes into which a convolution copies its input's patches where oneDNN cannot: in float64.
        count: how many numbers are multiplied.
    """

    patches = count = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds, only to keep it away from here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.patches = max(self.patches, 8 * args[1][0].numel() * out[0, 0].numel())
            self.count += out.numel() * args[1][0].numel()
        elif (left := _LEFT.get(func.overloadpacket.__name__)) is not None:
            self.count += out.numel() * args[left].shape[-1]
        return out


def footprint(net: Classifier, x: Tensor) -> tuple[int, int, int, int]:
    """What a pass over one input x (1, …) takes, in bytes and in multiplications.

    Returns what it keeps for its backward pass, the largest part of that, what a convolution in float64 adds, and how
    many numbers its convolutions and products of matrices multiply.
    """
    known = net.footprints
    if (at := (x.shape, x.dtype)) not in known:
        known[at] = _footprint(net, x)
    return known[at]


def _footprint(net: Classifier, x: Tensor) -> tuple[int, int, int, int]:
    tensors = (*net.model.parameters(), *net.model.buffers())
    weights = {t.untyped_storage().data_ptr() for t in tensors if t.layout == torch.strided}
    sizes: dict[int, int] = {x.untyped_storage().data_ptr(): x.nbytes}

    def note(t: Tensor) -> Tensor:
        if t.layout == torch.strided and (where := t.untyped_storage().data_ptr()) not in weights:
            sizes[where] = max(sizes.get(where, 0), t.nbytes)
        return t

    with net.at_rest(), torch.enable_grad(), _Products() as products:
        try:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
                net.logits(x.detach().clone().requires_grad_())
        except RuntimeError:  # a model that calls torch.func.grad itself takes no hooks: twice its weights, then
            sizes[0] = 2 * sum(t.nbytes for t in tensors)
    patches = products.patches if x.device.type == "cpu" else 0
    return sum(sizes.values()), max(sizes.values()), patches, products.count
