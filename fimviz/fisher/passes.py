"""Products with the input Jacobian of a network at a batch, from one graph, counted.

In evaluation mode the inputs of a batch do not influence each other, so one backward pass serves all of them,
and since the parameters are frozen it goes to the input only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils._python_dispatch import TorchDispatchMode

from fimviz.classifier import Classifier
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
        if self._push is None:
            self._push = linear = self._linear()
            if self._net.repeatable is not False:
                try:
                    out, again = repeatable(linear, self._shaped(v))
                except RepeatError:
                    self._net.repeatable = False
                else:
                    if self._net.repeatable is None:
                        self._net.repeatable = _agree(linear, again, self._shaped(v))
                    if self._net.repeatable:
                        self._push = again
                    self.jvps += 1
                    return out
        self.jvps += 1
        with torch.no_grad():
            return self._push(self._shaped(v))

    def jvp_once(self, v: Tensor) -> Tensor:
        """The same by itself, without a tape, which would take memory."""
        self.jvps += 1
        return self._linear()(self._shaped(v))

    def _shaped(self, v: Tensor) -> Tensor:
        return v.to(self._x).view_as(self._x).detach()

    def _linear(self) -> Callable[[Tensor], Tensor]:
        if self._net.forward_mode is None:
            self._net.forward_mode = self._has_forward_mode()
        return self._forward_mode if self._net.forward_mode else self._double_backward()

    def _has_forward_mode(self) -> bool:
        """Whether J v comes out in forward mode, and agrees with the backward pass: w · J v = wᵀJ · v."""
        generator = torch.Generator().manual_seed(0)
        v, w = (torch.randn(t.shape, generator=generator).to(t) for t in (self._x, self._z))
        pulled = self._pull(w)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", FutureWarning)  # torch's own, where it first loads its rules
                pushed = self._forward_mode(v)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # a function of the model has no rule for it
            return False
        ours, theirs = (w * pushed).flatten(1), (pulled * v).flatten(1)
        size = torch.maximum(ours.norm(dim=1), theirs.norm(dim=1))
        return bool(((ours.sum(1) - theirs.sum(1)).abs() <= 1e-3 * size).all())

    def _forward_mode(self, v: Tensor) -> Tensor:
        with torch.no_grad():
            return tangent(self._net.logits, self._x.detach(), v)

    def _double_backward(self) -> Callable[[Tensor], Tensor]:
        w = torch.zeros_like(self._z, requires_grad=True)
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self._z, self._x, w, create_graph=True)

        def along(v: Tensor) -> Tensor:
            with torch.enable_grad():
                return torch.autograd.grad(g, w, v, retain_graph=True)[0].detach()

        return along


def tangent(function: Callable[[Tensor], Tensor], x: Tensor, v: Tensor) -> Tensor:
    """The derivative of a function at x along v, in forward mode."""
    with forward_ad.dual_level():
        out = forward_ad.unpack_dual(function(forward_ad.make_dual(x, v)))
        return torch.zeros_like(out.primal) if out.tangent is None else out.tangent.clone()


def _agree(linear: Callable[[Tensor], Tensor], again: Callable[[Tensor], Tensor], v: Tensor) -> bool:
    """Whether a tape gives what the map gives: a model may compute past torch, in NumPy or a kernel of its own."""
    other = v.flip(tuple(range(1, v.ndim)))
    expected, got = linear(other), again(other)
    return bool((got - expected).norm() <= 1e-3 * expected.norm())


class _Patches(TorchDispatchMode):
    """The most bytes into which a convolution copies its input's patches where oneDNN cannot: in float64."""

    most = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, which takes seconds, only to keep it away from here

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
