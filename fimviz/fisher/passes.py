"""Products with the input Jacobian of a network at a batch, from one graph, counted.

In evaluation mode the inputs of a batch do not influence each other, so one backward pass serves all of them,
and since the parameters are frozen it goes to the input only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fimviz.classifier import Classifier, tangent
from fimviz.fisher.tape import RepeatError, repeatable


class Linearisation:
    """A classifier at a batch x (n, …) on its device: `logits` (n, K), and products with J = ∂z/∂x, counted.

    Make and use it inside `net.at_rest()`.
    """

    def __init__(self, net: Classifier, x: Tensor) -> None:
        self._net = net
        self._x = x.detach().clone().requires_grad_()
        self._z = net.logits(self._x)
        self._push: Callable[[Tensor], Tensor] | None = None
        self.logits = self._z.detach()
        self.vjps = self.jvps = 0

    def vjp(self, cotangents: Tensor) -> Tensor:
        """Products cᵀJ (n, m, D) for cotangents (n, K, m) toward the logits: m passes over the batch."""
        c = cotangents.to(self._z).permute(2, 0, 1)
        self.vjps += len(c)
        if not len(c):
            return self._x.new_zeros(len(self._x), 0, self._x[0].numel())
        if self._net.batched_vjp and len(c) > 1:
            g = torch.func.vmap(self._pull)(c)
        else:
            g = torch.stack([self._pull(one) for one in c])
        return g.flatten(2).transpose(0, 1)

    def _pull(self, cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(self._z, self._x, cotangent, retain_graph=True)[0]

    def jvp(self, v: Tensor) -> Tensor:
        """Products J v (n, K) for displacements v (n, D) of the inputs: one pass.

        The first call takes forward mode, at some 3 passes; the next ones repeat what of it depends on v. A model with
        a function that has no forward mode gives J v as the derivative of wᵀJ toward w instead.
        """
        self.jvps += 1
        v = v.to(self._x).view_as(self._x).detach()
        if self._push is None:
            linear = self._forward_mode if self._net.forward_mode else self._double_backward()
            self._push = linear
            if self._net.repeatable is not False:
                try:
                    out, again = repeatable(linear, v)
                except RepeatError:
                    self._net.repeatable = False
                else:
                    if self._net.repeatable is None:
                        self._net.repeatable = _agree(linear, again, v)
                    if self._net.repeatable:
                        self._push = again
                    return out
            return linear(v)
        with torch.no_grad():
            return self._push(v)

    def _forward_mode(self, v: Tensor) -> Tensor:
        with torch.no_grad():
            return tangent(self._net.logits, self._x.detach(), v)

    def _double_backward(self) -> Callable[[Tensor], Tensor]:
        w = torch.zeros_like(self._z, requires_grad=True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self._z, self._x, w, create_graph=True)
        return lambda v: torch.autograd.grad(g, w, v, retain_graph=True)[0].detach()


def _agree(linear: Callable[[Tensor], Tensor], again: Callable[[Tensor], Tensor], v: Tensor) -> bool:
    """Whether a tape gives what the map gives: a model may compute past torch, in NumPy or a kernel of its own."""
    other = v.flip(tuple(range(1, v.ndim)))
    expected, got = linear(other), again(other)
    return bool((got - expected).norm() <= 1e-3 * expected.norm())


class _Patches(TorchDispatchMode):
    """The most bytes into which a convolution copies its input's patches where oneDNN cannot: in float64."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.most = max(self.most, 8 * args[1][0].numel() * out[0, 0].numel())
        return out


def footprint(net: Classifier, x: Tensor) -> tuple[int, int, int]:
    """What a pass over one input x (1, …) takes, in bytes.

    Returns what it keeps for its backward pass, the largest part of that, and what a convolution in float64 adds.
    """
    tensors = (*net.model.parameters(), *net.model.buffers())
    weights = {t.untyped_storage().data_ptr() for t in tensors if t.layout == torch.strided}
    sizes: dict[int, int] = {x.untyped_storage().data_ptr(): x.nbytes}

    def note(t: Tensor) -> Tensor:
        if t.layout == torch.strided and (where := t.untyped_storage().data_ptr()) not in weights:
            sizes[where] = max(sizes.get(where, 0), t.nbytes)
        return t

    with _Patches() as patches:
        try:
            with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
                Linearisation(net, x)
        except RuntimeError:  # a model that calls torch.func.grad itself takes no hooks: twice its weights, then
            sizes[0] = 2 * sum(t.nbytes for t in tensors)
    return sum(sizes.values()), max(sizes.values()), patches.most if x.device.type == "cpu" else 0
