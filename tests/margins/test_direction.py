"""The solution in class space against dense linear algebra in float64."""

import pytest
import torch
from torch import nn

from fimviz.fisher.passes import Linearisation
from fimviz.margins.direction import Slope, bounded
from fimviz.model.classifier import Classifier


def ground(scale=1.0, classes=5, inputs=7, count=4):
    torch.manual_seed(3)
    model = nn.Sequential(nn.Linear(inputs, 12), nn.Tanh(), nn.Linear(12, classes)).double()
    model[2].weight.data *= scale
    net = Classifier(model)
    return net, net.admit(torch.rand(count, inputs, dtype=torch.float64))


def dense(net, x, c):
    """F (D, D) and g (D,) at one input."""
    with net.at_rest():
        x = x[None].clone().requires_grad_()
        z = net.logits(x)[0]
        jacobian = torch.stack([torch.autograd.grad(one, x, retain_graph=True)[0][0] for one in z])
    p = z.detach().softmax(0)
    return jacobian.T @ (torch.diag(p) - p[:, None] * p) @ jacobian, jacobian.T @ c


def found(net, x, toward, solver, damping=0.01, relative=True, kind="natural", box=None):
    with net.at_rest():
        passes = Linearisation(net, x)
        factor = net.likelihood.factor(passes.logits)
        slope = Slope(passes, torch.arange(len(x)), factor, solver)
        return bounded(slope, toward, x, box, damping, relative, kind)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize(("solver", "tolerance"), [("gram", 1e-7), ("cg", 5e-3)])
def test_woodbury(solver, tolerance, relative):
    net, x = ground()
    toward = torch.tensor([1.0, -1, 0, 0, 0]).double().expand(4, -1)
    d = found(net, x, toward, solver, relative=relative)
    for i in range(4):
        f, g = dense(net, x[i], toward[i])
        largest = torch.linalg.eigvalsh(f)[-1]
        shift = 0.01 * largest if relative else 0.01
        v = torch.linalg.solve(f + shift * torch.eye(len(f)).double(), g)
        assert torch.cosine_similarity(d.v[i], v, 0).item() > 1 - tolerance
        scale = d.v[i].norm() / v.norm()
        assert d.fisher[i].item() == pytest.approx((scale * (v @ f @ v).sqrt()).item(), rel=20 * tolerance)
        assert d.damped[i].item() == pytest.approx((scale * (g @ v).sqrt()).item(), rel=20 * tolerance)
        assert d.largest[i].item() == pytest.approx(largest.item(), rel=max(1e-9, tolerance))


def test_saturation_costs_no_digits():
    """Logits × 300: e^s has left float32, and the direction still solves the scaled equations."""
    net, x = ground(scale=300.0)
    with net.at_rest():
        z = net.logits(x)
    two = z.topk(2).indices
    toward = (nn.functional.one_hot(two[:, 0], 5) - nn.functional.one_hot(two[:, 1], 5)).double()
    d = found(net, x, toward, "gram")
    assert d.v.isfinite().all()
    assert (d.norm > 0).all()
    assert (d.largest > 0).all()


def test_gradient_and_sign():
    net, x = ground()
    toward = torch.tensor([1.0, 0, 0, -1, 0]).double().expand(4, -1)
    for solver in ("gram", "cg"):
        plain, sign = (found(net, x, toward, solver, kind=kind) for kind in ("gradient", "sign"))
        for i in range(4):
            f, g = dense(net, x[i], toward[i])
            assert torch.allclose(plain.v[i], g)
            assert plain.fisher[i].item() == pytest.approx((g @ f @ g).sqrt().item(), rel=1e-9)
            assert torch.equal(sign.v[i], g.sign())
            assert sign.fisher[i].item() == pytest.approx((g.sign() @ f @ g.sign()).sqrt().item(), rel=1e-9)


@pytest.mark.parametrize("solver", ["gram", "cg"])
def test_held_pixels(solver):
    """Against a dense solution over the free pixels: no step leaves the box, and it still descends."""
    net, _ = ground()
    x = torch.tensor([[0.0, 1, 0, 1, 0.5, 0, 1]]).double()
    toward = torch.tensor([[1.0, -1, 0, 0, 0]]).double()
    d = found(net, x, toward, solver, box=(0.0, 1.0))
    pushed = ((x <= 0) & (d.v > 0)) | ((x >= 1) & (d.v < 0))
    f, g = dense(net, x[0], toward[0])
    free = d.v[0] != 0
    assert not pushed.any()
    assert free.any()
    assert not free.all()
    inside = f[free][:, free]
    shift = 0.01 * torch.linalg.eigvalsh(inside)[-1]
    v = torch.linalg.solve(inside + shift * torch.eye(len(inside)).double(), g[free])
    assert torch.cosine_similarity(d.v[0][free], v, 0).item() > 0.999
    assert float(g @ d.v[0]) > 0
