"""The Jacobian of a network's features at given inputs, exactly: one VJP a feature."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fimviz.bounds.tracing import Run, trace
from fimviz.fisher.block import inner
from fimviz.model.at_rest import in_dtype
from fimviz.model.classifier import Classifier
from fimviz.model.engine.parts import by_rows
from fimviz.model.engine.plan import plan

_ROUNDING = 128  # of the rows relative to all of them, in machine epsilons, as in `fimviz.fisher.block`


def feature_norms(net: Classifier, x: Tensor, source: str, width: int, max_memory: float | None = None) -> Tensor:
    """An upper bound (n,) of ‖∂h/∂x‖ for an admitted batch x that is tight but for rounding, in float64 if possible.

    Args:
        net: the classifier.
        x: (n, …).
        source: the node of the traced graph that is h, as `NetworkBound.source`.
        width: how many features there are.
        max_memory: bytes that it may take, by default half of what is free.

    Raises:
        MemoryError: the rows do not fit.
    """
    x = x.double() if net.has_float64 else x
    with net.at_rest():
        inputs, cotangents = plan(net, x, 1, False, width, False, False, max_memory)
        traced = trace(net, x)

        def compute(places: list[int], cotangents: int) -> Tensor:
            return _norms(net, traced, source, x[places].to(net.device), cotangents)

        with in_dtype(traced, x.dtype):
            return torch.cat([norms for _, norms in by_rows(range(len(x)), inputs, cotangents, compute)])


class _Until(Run):
    """Runs a graph and keeps one node's tensor."""

    seen: Any = None
    source = ""

    def run_node(self, n: fx.Node) -> Any:
        out = super().run_node(n)
        if n.name == self.source:
            self.seen = out
        return out


def _norms(net: Classifier, traced: fx.GraphModule, source: str, x: Tensor, cotangents: int) -> Tensor:
    x = x.clone().requires_grad_()
    run = _Until(traced)
    run.source = source
    run.run(net.normalised(net.in_company(x)))
    h = run.seen.flatten(1)[: len(x)]
    rows = []
    for some in torch.eye(h.shape[1], dtype=h.dtype, device=h.device).split(cotangents):
        c = some[:, None].expand(-1, len(x), -1)
        if net.batched_vjp and len(c) > 1:
            rows.append(torch.autograd.grad(h, x, c, retain_graph=True, is_grads_batched=True)[0].flatten(2))
        else:
            rows.extend(torch.autograd.grad(h, x, one, retain_graph=True)[0].flatten(1)[None] for one in c)
    jacobian = torch.cat(rows).transpose(0, 1)
    gram = inner(jacobian, jacobian) if jacobian.shape[1] <= jacobian.shape[2] else inner(jacobian.mT, jacobian.mT)
    size = gram.diagonal(dim1=1, dim2=2).sum(1).sqrt()
    top = torch.linalg.eigvalsh(gram)[:, -1].clamp_min(0).sqrt()
    return top + _ROUNDING * torch.finfo(x.dtype).eps * size
