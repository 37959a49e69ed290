"""The smallest attack: closed forms, the input range, and what is verified."""

import math

import pytest
import torch

import fimviz as fv
from fimviz.ranking.attack import smallest_attack


def test_a_linear_model_has_a_closed_form():
    torch.manual_seed(0)
    model = torch.nn.Linear(12, 5)
    net = fv.Classifier(model, input_range=None)
    x = net.admit(torch.randn(20, 12))
    z = model(x).detach()
    y = z.argmax(1)
    w = model.weight.detach()
    gaps = (z.gather(1, y[:, None]) - z) / (w[y][:, None] - w[None]).norm(dim=2).clamp_min(1e-30)
    truth = gaps.scatter(1, y[:, None], torch.inf).amin(1)
    found = smallest_attack(net, x, y)
    assert (found >= truth * (1 - 1e-4)).all()
    assert (found <= truth * 1.02).all()


def test_missed_labels_need_no_change_and_a_constant_model_withstands():
    net = fv.Classifier(torch.nn.Linear(4, 3), input_range=None)
    x = net.admit(torch.randn(6, 4))
    z = net.logits(x).detach()
    assert smallest_attack(net, x, (z.argmax(1) + 1) % 3).tolist() == [0.0] * 6
    flat = torch.nn.Linear(4, 3)
    torch.nn.init.constant_(flat.weight, 1e-12)
    flat.bias.data = torch.tensor([3.0, 0.0, 0.0])
    net = fv.Classifier(flat)
    assert (
        smallest_attack(net, net.admit(torch.rand(3, 4)), torch.zeros(3, dtype=torch.long)).tolist() == [math.inf] * 3
    )


def test_it_stays_in_the_input_range():
    # beyond the range the nearest boundary would be 0.1 away; inside, pixel 1 has to make the way
    model = torch.nn.Linear(2, 2).double()
    model.weight.data = torch.tensor([[0.0, 0.0], [10.0, 1.0]], dtype=torch.float64)
    model.bias.data = torch.tensor([0.0, -11.0 + 0.5], dtype=torch.float64)
    net = fv.Classifier(model)
    x = net.admit(torch.tensor([[1.0, 0.0]], dtype=torch.float64))
    assert smallest_attack(net, x, torch.tensor([0])).item() == pytest.approx(0.5, rel=0.05)


def test_no_attack_is_shorter_than_a_certified_radius_and_longer_than_random_search():
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    x = net.admit(images[:16])
    few = smallest_attack(net, x, labels[:16], targets=1, steps=5)
    more = smallest_attack(net, x, labels[:16], targets=9, steps=40)
    assert (more <= few * 1.02).all()
    generator = torch.Generator().manual_seed(0)
    for i in (0, 1):
        d = torch.randn(500, *x.shape[1:], generator=generator)
        d *= 0.99 * more[i].float() / d.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        assert (net((x[i] + d).clamp(0, 1)).argmax(1) == labels[i]).all()


def test_the_model_is_left_as_it_came():
    net = fv.zoo.load("digits-vgg")
    net.model.train()
    net.model.requires_grad_(True)
    images, labels = fv.zoo.digits()
    smallest_attack(net, net.admit(images[:2]), labels[:2], targets=1, steps=2)
    assert net.model.training
    assert all(p.requires_grad and p.grad is None for p in net.model.parameters())
