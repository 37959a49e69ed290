"""Attacks: closed forms, the budget and the range, captum's traps, and the smallest one."""

import math
import warnings

import pytest
import torch

import fimviz as fv
from fimviz.attacks.descent import known_inputs, smallest, smallest_attack
from fimviz.attacks.problem import Problem
from fimviz.attacks.within import smallest_margin

ATTACKS = {
    "fgsm": fv.attacks.fgsm,
    "pgd": lambda *a, **o: fv.attacks.pgd(*a, steps=7, restarts=2, **o),
    "spectral": fv.attacks.spectral,
    "random": fv.attacks.random,
}


def linear(rows, bias=None, **options):
    weight = torch.tensor(rows, dtype=torch.float64)
    model = torch.nn.Linear(weight.shape[1], len(rows)).double()
    model.weight.data, model.bias.data = (
        weight,
        torch.zeros(len(rows)).double() if bias is None else torch.tensor(bias).double(),
    )
    return fv.Classifier(model, **options)


def lengths(moved, images, norm):
    d = (moved.double() - images.double()).flatten(1)
    return d.norm(dim=1, p=2 if norm == "l2" else math.inf)


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("name", ATTACKS)
def test_changes_stay_in_the_range_and_the_budget(name, dtype, norm):
    images, labels = fv.zoo.digits()
    images = images[:12].to(dtype)
    net = fv.zoo.load("digits-resnet")
    epsilon = torch.logspace(-8, 0.5, 12, dtype=torch.float64)
    epsilon[3] = 0
    moved = ATTACKS[name](net, images, labels[:12], epsilon, norm=norm)
    assert moved.dtype == dtype
    assert moved.shape == images.shape
    assert moved.min() >= 0
    assert moved.max() <= 1
    slack = 1e-15 if dtype == torch.float64 else 0  # exact where float64 measures it
    assert (lengths(moved, images, norm) <= epsilon + slack).all()
    assert torch.equal(moved[3], images[3])
    assert (lengths(moved, images, norm)[-4:] > 0.2 * epsilon[-4:].clamp_max(0.5)).all()


@pytest.mark.parametrize("name", ["fgsm", "pgd", "spectral"])
def test_two_classes_fall_at_the_closed_form_and_not_before(name):
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(2, 9, generator=generator).double()
    net = linear(w.tolist(), input_range=None)
    x = torch.randn(5, 9, generator=generator).double()
    z = x @ w.T
    gap, w = (z[:, 0] - z[:, 1]).abs(), w[0] - w[1]
    for norm, dual in (("l2", w.norm()), ("linf", w.abs().sum())):
        there = gap / dual
        for share, fooled in ((0.999, False), (1.001, True)):
            moved = ATTACKS[name](net, x, None, share * there, norm=norm)
            assert ((moved @ (net.model.weight.T) + net.model.bias).argmax(1) != z.argmax(1)).tolist() == [fooled] * 5


def test_fgsm_is_the_sign_of_the_gradient_of_cross_entropy_where_that_has_one():
    images, labels = fv.zoo.digits()
    x, y = images[:20], labels[:20]
    net = fv.zoo.load("digits-vgg")
    here = x.double().requires_grad_()
    with net.at_rest():
        (g,) = torch.autograd.grad(torch.nn.functional.cross_entropy(net.logits(here), y, reduction="sum"), here)
    d = (fv.attacks.fgsm(net, x.double(), y, 1e-3) - x.double()).sign()
    free = ((x > 0.01) & (x < 0.99)) & (g.abs() > 1e-4 * g.abs().amax((1, 2, 3), keepdim=True))
    assert free.sum() > 100
    assert (d == g.sign())[free].double().mean() > 0.999  # kinks, between float32 and float64 passes


def test_saturation_stops_no_attack():
    # cross-entropy and its gradient round to 0 here, and captum takes what is below 1e-6 for 0 as well
    net = linear([[300.0, 0.0], [0.0, 300.0]])
    x = torch.tensor([[1.0, 0.0]])
    assert -1e-100 < net(x)[0, 0] < 0
    for name, attack in ATTACKS.items():
        if name != "random":
            moved = attack(net, x, [0], 0.6, norm="linf")
            assert net(moved).argmax(1).item() == 1, name


def test_no_gradient_means_no_change_and_no_nan():
    flat = linear([[0.0, 0.0], [0.0, 0.0]], bias=[3.0, 0.0])
    flat.model.weight.data[0, 0] = 1e-30
    x = torch.rand(3, 2)
    for name in ("fgsm", "pgd", "spectral"):
        for norm in ("l2", "linf"):
            moved = ATTACKS[name](flat, x, None, 0.5, norm=norm)
            assert moved.isfinite().all()
            assert torch.equal(flat(moved).argmax(1), flat(x).argmax(1))


def test_pgd_goes_around_what_one_step_runs_into():
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-resnet-robust")
    x, y = images[:60], labels[:60]
    for norm, epsilon in (("l2", 1.0), ("linf", 0.15)):
        fooled = {
            n: int((net(attack(net, x, y, epsilon, norm=norm)).argmax(1) != y).sum()) for n, attack in ATTACKS.items()
        }
        assert fooled["pgd"] > fooled["fgsm"] > fooled["random"]
        assert fooled["pgd"] > fooled["spectral"] > fooled["random"]


@pytest.mark.parametrize("loss", ["ce", "cw"])
def test_more_steps_or_restarts_of_pgd_never_leave_a_larger_margin_than_the_image_has(loss):
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-densenet")
    x, y = images[:24], labels[:24]

    def margin(moved):
        return net.likelihood.margin(net(moved), y)

    for norm in ("l2", "linf"):
        options = {"norm": norm, "loss": loss}
        once = fv.attacks.pgd(net, x, y, 0.1, steps=5, **options)
        more = fv.attacks.pgd(net, x, y, 0.1, steps=5, restarts=3, **options)
        assert (margin(once) <= margin(x) + 1e-5).all()
        assert (margin(more) <= margin(once) + 1e-5).all()
        assert torch.equal(more, fv.attacks.pgd(net, x, y, 0.1, steps=5, restarts=3, **options))
        options |= {"steps": 2, "restarts": 2}
        assert not torch.equal(*(fv.attacks.pgd(net, x, y, 0.5, seed=seed, **options) for seed in (0, 1)))


def test_a_part_of_a_batch_is_attacked_as_in_the_batch(monkeypatch):
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    whole = {n: attack(net, images[:10], labels[:10], 0.2, norm="l2") for n, attack in ATTACKS.items()}
    monkeypatch.setattr("fimviz.model.engine.plan._TOGETHER", 3)
    for n, attack in ATTACKS.items():
        assert torch.allclose(attack(net, images[:10], labels[:10], 0.2, norm="l2"), whole[n], atol=1e-5)


def test_yes_or_no_labels_are_missed_by_one_of_them():
    net = linear([[1.0, 0.0], [0.0, 8.0]], bias=[-0.2, -4.0], likelihood="bernoulli")
    x = torch.tensor([[0.3, 0.9]])
    for name in ("fgsm", "pgd"):  # the eigenvector is that of the other label, whose logit is steeper
        moved = ATTACKS[name](net, x, None, 0.15, norm="l2")
        assert (net.model(moved.double()) > 0).tolist() == [[False, True]]


def test_what_is_wrong_is_said_before_any_work():
    net, x = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:2]
    with pytest.raises(ValueError, match="norm is 'l1', expected"):
        fv.attacks.fgsm(net, x, None, 0.1, norm="l1")
    with pytest.raises(ValueError, match=r"epsilon has shape \(3,\)"):
        fv.attacks.spectral(net, x, None, torch.ones(3))
    with pytest.raises(ValueError, match="expected lengths from 0"):
        fv.attacks.pgd(net, x, None, -1)
    with pytest.raises(TypeError, match="expected a number"):
        fv.attacks.random(net, x, None, "0.1")
    with pytest.raises(ValueError, match="loss is 'mse'"):
        fv.attacks.pgd(net, x, None, 0.1, loss="mse")
    with pytest.raises(TypeError, match="did you mean step"):
        fv.attacks.pgd(net, x, None, 0.1, step_=3)
    with pytest.raises(TypeError, match="a BlackBox, which gives answers and no gradients"):
        fv.attacks.pgd(fv.BlackBox(lambda images: images, classes=["a", "b"]), x, None, 0.1)


def test_nothing_of_the_process_moves():
    net = fv.zoo.load("digits-vgg")
    net.model.train()
    net.model.requires_grad_(True)
    images, labels = fv.zoo.digits()
    state = torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for attack in ATTACKS.values():
            attack(net, images[:2], labels[:2], 0.1, norm="l2")
    assert torch.equal(state, torch.get_rng_state())
    assert net.model.training
    assert all(p.requires_grad and p.grad is None for p in net.model.parameters())


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


def test_a_change_is_what_it_says_and_is_found_again_within_its_length():
    net, (images, _) = fv.zoo.load("digits-mlp"), fv.zoo.digits()
    x = images[:6].double()
    with net.at_rest():
        task = Problem(net, x, net.logits(x).argmax(1), "l2")
        length, moved = smallest(task, known_inputs(net, x, 0), targets=2, steps=20)
        assert torch.allclose(task.length(moved - x), length)
        assert task.missed(moved).all()
        margin, found = smallest_margin(task, length * 1.01, steps=20, restarts=3, seed=1)
        assert (margin < 0).all()
        assert task.missed(found).all()
        alone, there = smallest_margin(task, 1e-40 * length, steps=10**9, restarts=1, seed=1)
        assert torch.equal(alone, net.likelihood.margin(net.logits(x), task.labels))
        assert torch.equal(there, x)
    assert min(moved.amin(), found.amin()) >= 0
    assert max(moved.amax(), found.amax()) <= 1
    assert (task.length(found - x) <= length * 1.01).all()


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_plateau_around_the_image_hides_no_boundary(norm):
    """Logits that are clipped: the gradient at every image is 0, and the nearest boundary is a known plane."""

    class Clipped(torch.nn.Module):
        def forward(self, x):
            z = 30 * (x.flatten(1) - 0.5) @ w.to(x)
            return torch.stack([z, -z], 1).clamp(-1, 1)

    w = torch.tensor([1.0, -2.0, 3.0, 0.5, 1.5], dtype=torch.float64)
    net = fv.Classifier(Clipped())
    x = torch.tensor([[0.5, 0.3, 0.7, 0.5, 0.6], [0.4, 0.6, 0.3, 0.5, 0.5]], dtype=torch.float64)
    truth = ((x - 0.5) @ w).abs() / w.norm(p=2 if norm == "l2" else 1)
    assert (net(x).amax(1) - net(x).amin(1)).tolist() == pytest.approx([2, 2])
    for images in (x, x[:1]):  # with a known input beyond the boundary, and with nothing but noise
        moved = fv.attacks.descent(net, images, None, norm=norm)
        found = lengths(moved, images, norm)
        assert (net(moved).argmax(1) != net(images).argmax(1)).all()
        assert (found >= truth[: len(images)] * (1 - 1e-9)).all()
        assert (found <= truth[: len(images)] * 1.03).all()


def test_a_class_in_a_ball_is_met_at_its_surface():
    class Ball(torch.nn.Module):
        def forward(self, x):
            far = (x.flatten(1) - centre.to(x)).square().sum(1)
            return torch.stack([torch.zeros_like(far), 0.2**2 - far], 1)

    generator = torch.Generator().manual_seed(0)
    centre = torch.full((7,), 0.5, dtype=torch.float64)
    x = torch.rand(6, 7, generator=generator, dtype=torch.float64)
    found = lengths(fv.attacks.descent(fv.Classifier(Ball()), x, None), x, "l2")
    assert torch.allclose(found, (x - centre).norm(dim=1) - 0.2, rtol=1e-2)


def test_a_network_that_rounds_its_input_is_as_weak_as_it_is_without():
    """The gradient is 0 everywhere; the attack on the network without the rounding is the measure."""
    zoo = fv.zoo.load("digits-mlp")

    class Rounds(torch.nn.Module):
        def forward(self, x):
            x = (x * 31).round() / 31
            return zoo.model((x - zoo.mean.float()) / zoo.std.float())

    images, labels = fv.zoo.digits()
    x, y = images[:6], labels[:6]
    net = fv.Classifier(Rounds())
    moved = fv.attacks.descent(net, x, y)
    assert (net(moved).argmax(1) != y).all()
    plain = lengths(fv.attacks.descent(zoo, x, y), x, "l2")
    found = lengths(moved, x, "l2")
    assert (found <= 1.3 * plain).all()


def test_descent_is_the_strongest_of_the_attacks_and_all_doors_lead_to_it():
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-vgg-robust")
    x, y = images[:5], labels[:5]
    v = fv.vulnerability(net, x, y, norm="both")
    for norm in ("l2", "linf"):
        names = [name for name, one in v.attacks if one == norm]
        found = v.epsilon[v.right][:, [j for j, (_, one) in enumerate(v.attacks) if one == norm]]
        assert (found[:, names.index("descent")] <= 1.05 * found.amin(1)).all()
        assert (found[:, names.index("descent")] < found[:, names.index("fgsm")] * 1.0001).all()
    certified = fv.certified_radius(net, x, method="norms").attack[v.right]
    compared = smallest_attack(net, net.admit(x), y)[v.right]
    best = v.best("l2")[v.right]
    assert torch.allclose(certified, compared, rtol=0.02)
    assert float((best / certified).min()) > 0.9
    assert float((best / certified).max()) < 1.02
    moved = fv.attacks.descent(net, x, y)
    assert torch.allclose(lengths(moved, x, "l2")[v.right], compared, rtol=1e-4)
    short = fv.attacks.descent(net, x, y, 0.5 * float(compared.min()))
    assert torch.equal(short, x)


def test_a_network_trained_against_pgd_stands_nowhere(realdata):
    net = fv.Classifier(realdata.network("mnist-lenet5-robust"))
    x, _ = realdata.images("mnist-test", 16)
    v = fv.vulnerability(net, x, attacks=("descent",))
    assert v.success.all()
    assert v.best("l2").quantile(0.5) < 1.6  # one ascent from the image finds 2.2, PGD nothing up to 14
