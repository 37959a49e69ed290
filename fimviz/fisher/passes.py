"""Products with the input Jacobian of a network at a batch, from one graph, counted.

In evaluation mode the inputs of a batch do not influence each other, so one backward pass serves all of them,
and since the parameters are frozen it goes to the input only.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext

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
        # Never methods of this object: in a circle its graphs would outlive it, and their memory with them.
        self._back: Callable[[Tensor], Tensor] | None = None  # the tape of wᵀJ
        self._again: Callable[[Tensor], Tensor] | None = None  # that of J v
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
        if len(c) == 1 and self._along and self._back is None and self._net.repeatable is not False:
            g = self._recorded(c[0])[None]
        elif self._net.batched_vjp and len(c) > 1:
            g = torch.func.vmap(self._pull)(c)
        else:
            g = torch.stack([self._pull(one) for one in c])
        rows = g.flatten(2).transpose(0, 1)
        check_finite(rows, GRADIENT)
        return rows

    def _pull(self, cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(self._z, self._x, cotangent, retain_graph=True)[0]

    def _recorded(self, cotangent: Tensor) -> Tensor:
        try:
            g, self._back = repeatable(self._pull, cotangent)
        except RepeatError:
            self._net.repeatable = False
            return self._pull(cotangent)
        return g

    def jvp(self, v: Tensor) -> Tensor:
        """Products J v (n, K) for displacements v (n, D) of the inputs: one pass.

        wᵀJ is linear in w, with J v as its derivative along v. The first call takes that from a tape of a backward
        pass, and the next ones repeat what of it depends on v. Where no tape can be made, the model is differentiated
        twice, or in forward mode.
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
        if self._net.repeatable is not False and (out := self._turned(v)) is not None:
            return out
        if self._net.double_backward is None:
            self._net.double_backward = self._can_bend(v)
        return self._double_backward(v) if self._net.double_backward else self._forward_mode(v)

    def _turned(self, v: Tensor) -> Tensor | None:
        """J v from the derivative of the tape of wᵀJ, and a tape of that; None where a model does what no tape sees."""
        w = torch.zeros_like(self._z).requires_grad_()
        try:
            if self._back is None:
                self._back = repeatable(self._pull, w.detach())[1]
            with torch.enable_grad():
                g = self._back(w)
            out, again = repeatable(lambda v: torch.autograd.grad(g, w, v)[0], v)
            if self._net.repeatable is None:
                other = v.flip(tuple(range(1, v.ndim)))
                self._net.repeatable = self._agrees(v, out) and self._agrees(other, again(other))
        except torch.OutOfMemoryError:
            raise
        except (RepeatError, RuntimeError):  # of an operation that torch cannot differentiate
            self._net.repeatable = False
            return None
        if not self._net.repeatable:
            return None
        self._again = again
        return out

    def _double_backward(self, v: Tensor) -> Tensor:
        w = torch.zeros_like(self._z).requires_grad_()
        with torch.enable_grad():
            (g,) = torch.autograd.grad(self._z, self._x, w, create_graph=True)
            return torch.autograd.grad(g, w, v)[0].detach()

    def _can_bend(self, v: Tensor) -> bool:
        """Whether the model can be differentiated twice; if not, whether its forward mode can be trusted."""
        try:
            self._double_backward(v)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            pass
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
