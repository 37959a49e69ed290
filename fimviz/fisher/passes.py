"""Products with the input Jacobian of a network at a batch, from one graph, counted.

In evaluation mode the inputs of a batch do not influence each other, so one backward pass serves all of them,
and since the parameters are frozen it goes to the input only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext, suppress

import torch
from torch import Tensor
from torch.autograd import forward_ad

from fimviz.fisher.tape import RepeatError, repeatable
from fimviz.model.at_rest import recurs
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import in_parts
from fimviz.model.engine.plan import there_and_back
from fimviz.model.engine.progress import Tick, silent
from fimviz.model.failures import ALONG, GRADIENT, LOGITS, check_finite
from fimviz.model.precise import float64_values


class Linearisation:
    """A classifier at a batch x (n, …) on its device: `logits` (n, K), and products with J = ∂z/∂x, counted.

    Make and use it inside `net.at_rest()`. `precise` takes the forward pass in float64 (`fimviz.model.precise`), so
    that `logits` are float64's and the products those of its linear piece, in the precision of x. `along` says that
    products J v are wanted too: the first VJP then keeps the graph that gives them.
    """

    def __init__(self, net: Classifier, x: Tensor, *, precise: bool = False, along: bool = False) -> None:
        self._net, self._precise, self._along = net, precise, along
        self._x = x.detach().clone().requires_grad_()
        with float64_values(recurrent=recurs(net.model)) if precise else nullcontext() as values:
            self._z = net.logits(self._x)
            z = self._z.detach()
            self.logits = z if values is None else values.of(z)
        self._bend: tuple[Tensor, Tensor] | None = None  # a cotangent w with wᵀJ, differentiable toward w
        # Never a method of this object: in a circle its graphs would outlive it, and their memory with them.
        self._again: Callable[[Tensor], Tensor] | None = None
        self.vjps = self.jvps = 0

    @property
    def device(self) -> torch.device:
        """Where the passes run."""
        return self._x.device

    def vjp(self, cotangents: Tensor) -> Tensor:
        """Products cᵀJ (n, m, D) for cotangents (n, K, m) toward the logits: m passes over the batch."""
        c = cotangents.to(self._z).permute(2, 0, 1)
        self.vjps += len(c)
        if not len(c):
            return self._x.new_zeros(len(self._x), 0, self._x[0].numel())
        if len(c) == 1 and self._along and self._bend is None and self._net.double_backward:
            g = self._bent(c[0])[None]
        elif self._net.batched_vjp and len(c) > 1:
            g = torch.func.vmap(self._pull)(c)
        else:
            g = torch.stack([self._pull(one) for one in c])
        rows = g.flatten(2).transpose(0, 1)
        check_finite(rows, GRADIENT)
        return rows

    def _pull(self, cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(self._z, self._x, cotangent, retain_graph=True)[0]

    def _bent(self, cotangent: Tensor) -> Tensor:
        w = cotangent.clone().requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self._z, self._x, w, create_graph=True)
        self._bend = w, g
        return g.detach()

    def jvp(self, v: Tensor) -> Tensor:
        """Products J v (n, K) for displacements v (n, D) of the inputs: one pass.

        wᵀJ is linear in w, with J v as its derivative along v. The first call takes that from the graph of a backward
        pass, and the next ones repeat what of it depends on v. A model with a function that cannot be differentiated
        twice gives J v in forward mode instead.
        """
        self.jvps += 1
        out = self._pushed(v.to(self._x).view_as(self._x).detach())
        if not out.isfinite().all():
            self.vjp(torch.ones_like(self._z)[..., None])  # raises where it is the gradient itself that fails
            check_finite(out, ALONG)
        return out

    def _pushed(self, v: Tensor) -> Tensor:
        if self._again is not None:
            with torch.no_grad():
                return self._again(v)
        linear = self._linear(v)
        if self._net.repeatable is not False:
            try:
                out, again = repeatable(linear, v)
            except RepeatError:
                self._net.repeatable = False
            else:
                if self._net.repeatable is None and out.isfinite().all():
                    self._net.repeatable = _agree(linear, again, v)
                if self._net.repeatable:
                    self._again = again
                return out
        with torch.no_grad():
            return linear(v)

    def _linear(self, v: Tensor) -> Callable[[Tensor], Tensor]:
        if self._net.double_backward is None:
            # Convolutions with groups torch differentiates twice group by group: up to 130 forward passes.
            forward = self._net.grouped and self._goes_forward(v)
            self._net.double_backward = not forward and self._can_bend(v)
        if self._net.double_backward and self._bend is None:
            self._bent(torch.zeros_like(self._z))
        return self._double_backward if self._net.double_backward else self._forward_mode

    def _double_backward(self, v: Tensor) -> Tensor:
        assert self._bend is not None
        w, g = self._bend
        with torch.enable_grad():
            return torch.autograd.grad(g, w, v, retain_graph=True)[0].detach()

    def _goes_forward(self, v: Tensor) -> bool:
        """Whether forward mode gives what backward passes say."""
        with suppress(NotImplementedError):
            return self._agrees(v, self._forward_mode(v))
        return False

    def _can_bend(self, v: Tensor) -> bool:
        """Whether the model can be differentiated twice; if not, whether its forward mode can be trusted."""
        try:
            self._bent(torch.zeros_like(self._z))
            self._double_backward(v)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            self._bend = None
        else:
            return True
        try:
            pushed = self._forward_mode(v)
        except NotImplementedError as error:
            raise NotImplementedError(
                "a function of the model can neither be differentiated twice nor in forward mode (jvp), and "
                "products along directions need one of them: give it one, or use method='exact', which needs none"
            ) from error
        if not self._agrees(v, pushed):
            raise RuntimeError(
                "a function of the model has a forward mode (jvp) that contradicts its backward pass, expected the "
                "same derivative: mend it, or use method='exact', which needs no products along directions"
            )
        return False

    def _agrees(self, v: Tensor, pushed: Tensor) -> bool:
        """Whether products J v are those of a random wᵀJ with v."""
        w = torch.randn(self._z.shape, generator=torch.Generator().manual_seed(0)).to(self._z)
        ours, theirs = ((a.cpu().double() * b.cpu()).flatten(1) for a, b in ((w, pushed), (v, self._pull(w))))
        size = torch.maximum(ours.norm(dim=1), theirs.norm(dim=1))
        return bool(((ours.sum(1) - theirs.sum(1)).abs() <= 1e-3 * size).all())

    def _forward_mode(self, v: Tensor) -> Tensor:
        values = float64_values(v, recurrent=recurs(self._net.model)) if self._precise else nullcontext()
        with warnings.catch_warnings(), torch.no_grad(), values:
            warnings.simplefilter("ignore", FutureWarning)  # torch's own, where it first loads its rules
            return tangent(self._net.logits, self._x.detach(), v)


def unsound(
    net: Classifier,
    x: Tensor,
    *,
    slopes: bool = True,
    max_memory: float | None = None,
    progress: Tick = silent,
) -> dict[int, str]:
    """Why inputs of an admitted batch x (n, …) cannot be computed, by place: a forward pass each, and one back."""
    failures: dict[int, str] = {}

    def lost(places: list[int]) -> dict[int, str]:
        here = x[places].detach().to(net.device).clone().requires_grad_(slopes)
        z = net.logits(here)
        rows = {LOGITS: ~z.isfinite().all(1)}
        if slopes:
            # plain sums are constant where the outputs are centred
            (g,) = torch.autograd.grad(z, here, torch.linspace(1, 2, z.shape[1]).to(z).expand_as(z))
            rows[GRADIENT] = ~(g.isfinite().flatten(1).all(1) | rows[LOGITS])
        return {places[row]: why for why, those in rows.items() for row in those.nonzero()[:, 0].tolist()}

    with net.at_rest(), nullcontext() if slopes else torch.no_grad():
        for places, found in in_parts(range(len(x)), there_and_back(net, x, max_memory), lost):
            failures |= found
            progress(places[-1] + 1, len(x))
    return dict(sorted(failures.items()))


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
