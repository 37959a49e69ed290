"""Products with the input Jacobian of a network at a batch, from one graph, counted.

In evaluation mode the inputs of a batch do not influence each other, so one backward pass serves all of them,
and since the parameters are frozen it goes to the input only.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fimviz.classifier import Classifier


class Linearisation:
    """A classifier at a batch x (n, …) on its device: `logits` (n, K) and vector-Jacobian products.

    Make and use it inside `net.at_rest()`.
    """

    def __init__(self, net: Classifier, x: Tensor) -> None:
        self._net = net
        self._x = x.detach().clone().requires_grad_()
        self._z = net.logits(self._x)
        self.logits = self._z.detach()
        self.vjps = 0

    def vjp(self, cotangents: Tensor) -> Tensor:
        """Products cᵀJ (n, m, D) for cotangents (n, K, m) toward the logits: m passes over the batch."""
        c = cotangents.to(self._z).permute(2, 0, 1)
        self.vjps += len(c)
        if self._net.batched_vjp and len(c) > 1:
            (g,) = torch.autograd.grad(self._z, self._x, c, retain_graph=True, is_grads_batched=True)
        else:
            g = torch.stack([torch.autograd.grad(self._z, self._x, one, retain_graph=True)[0] for one in c])
        return g.flatten(2).transpose(0, 1)


def footprint(net: Classifier, x: Tensor) -> tuple[int, int, int]:
    """What one input x (1, …) keeps for its backward pass, in bytes: all of it, the largest part; and K."""
    weights = {t.untyped_storage().data_ptr() for t in (*net.model.parameters(), *net.model.buffers())}
    sizes: dict[int, int] = {x.untyped_storage().data_ptr(): x.nbytes}

    def note(t: Tensor) -> Tensor:
        if (where := t.untyped_storage().data_ptr()) not in weights:
            sizes[where] = max(sizes.get(where, 0), t.nbytes)
        return t

    with torch.autograd.graph.saved_tensors_hooks(note, lambda t: t):
        z = Linearisation(net, x).logits
    return sum(sizes.values()), max(sizes.values()), z.shape[1]
