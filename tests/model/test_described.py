"""Whether a network's gradient describes it: networks that mask theirs are told, all others are left alone."""

import warnings

import pytest
import torch
from torch import nn

import fimviz as fv

ZOO = "digits-mlp"


class Through(torch.autograd.Function):
    """Rounds to levels going forward, and is not there going back."""

    @staticmethod
    def forward(ctx, x, levels):
        return (x * levels).round() / levels

    @staticmethod
    def backward(ctx, g):
        return g, None


class Before(nn.Module):
    def __init__(self, change, inner=None):
        super().__init__()
        zoo = fv.zoo.load(ZOO)
        self.change, self.inner, self.mean, self.std = change, inner or zoo.model, zoo.mean.float(), zoo.std.float()

    def forward(self, x):
        return self.inner((self.change(x) - self.mean) / self.std)


MASKED = {
    "31 levels": lambda x: (x * 31).round() / 31,
    "8 bits": lambda x: (x * 255).round() / 255,
    "floor": lambda x: (x * 15).floor() / 15,
    "sign": lambda x: torch.sign(x - 0.4) / 2 + 0.5,
    "one of many": lambda x: nn.functional.one_hot((x * 7).long().clamp(0, 7), 8).to(x.dtype).argmax(-1) / 7.0 + 0 * x,
    "a hidden sliver": lambda x: (x * 31).round() / 31 + 1e-6 * x,
}


def partly(change, columns=4):
    """What happens to the first columns alone."""
    return lambda x: torch.cat([change(x[..., :columns]), x[..., columns:]], -1)


PARTLY = {
    "half detached": partly(lambda x: x.detach()),
    "three columns of eight detached": partly(lambda x: x.detach(), 3),
    "half in 31 levels": partly(MASKED["31 levels"]),
    "half in 8 bits": partly(MASKED["8 bits"]),
    "half in 7 levels": partly(lambda x: (x * 7).round() / 7),
    "half a threshold": partly(lambda x: (x > 0.4).to(x.dtype)),
    "every other pixel detached": lambda x: torch.where(torch.eye(8).cumsum(0) % 2 > 0, x, x.detach()),
    "two thirds detached": lambda x: x / 3 + 2 * x.detach() / 3,
    "details alone have a gradient": lambda x: x - nn.functional.avg_pool2d(x.detach(), 3, 1, 1) * 0.9,
}


@pytest.fixture(scope="module")
def digits():
    images, labels = fv.zoo.digits()
    return images[:6], labels[:6]


@pytest.mark.parametrize("name", MASKED)
def test_masked_gradients_are_told(name, digits):
    images, labels = digits
    net = fv.Classifier(Before(MASKED[name]))
    with pytest.warns(UserWarning, match=r"the gradient does not describe this model.*fv\.BlackBox") as told:
        s = fv.spectrum(net, images, labels=labels)
    assert told[0].filename == __file__
    assert s.guarantee == "void"
    assert "does not describe this model" in repr(s)
    assert "the gradient does not describe this model" in s.reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what is said of answers that go in steps
        warnings.filterwarnings("error", "the gradient")  # once a model
        assert fv.spectrum(net, images, method="lanczos").guarantee == "void"
        assert fv.spectrum(net, images, method="blackbox", probes=8).guarantee == "statistical"


@pytest.mark.parametrize("images", ["digits", "noise"])
@pytest.mark.parametrize("name", PARTLY)
def test_gradients_masked_in_part_are_told(name, images, digits):
    x = digits[0][:2] if images == "digits" else torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"leaves \d\d % of how the answers change unexplained"):
        assert fv.spectrum(Before(PARTLY[name]), x).guarantee == "void"


@pytest.mark.parametrize("change", [lambda x: (x > 0.5).to(x.dtype), lambda x: (x * 255).to(torch.uint8) / 255])
def test_no_gradient_at_all_is_refused(change, digits):
    with pytest.raises(ValueError, match=r"integers or comparisons, or ask for answers alone.*fv\.BlackBox"):
        fv.spectrum(Before(change), digits[0])


def test_what_rests_on_them_says_so(digits):
    images, labels = digits
    net = fv.Classifier(Before(MASKED["31 levels"]))
    with pytest.warns(UserWarning, match="does not describe"):
        net(images)
    frame = fv.compare_bounds(net, images, probes=8).frame
    words = frame.groupby("method").guarantee.first()
    assert (words[["exact", "lanczos", "power", "hutchinson-trace", "L1", "L2", "L3", "lower-pair"]] == "void").all()
    assert words["blackbox"] == "statistical"
    v = fv.vulnerability(net, images, labels, halvings=1, steps=2)
    assert "the gradient does not describe this model" in repr(v)
    assert net.undescribed in unpacked(v.view())
    assert net.undescribed in unpacked(fv.spectrum(net, images).view())
    assert net.undescribed in unpacked(fv.explore(net, images, labels).view())


def unpacked(figure):
    import base64
    import zlib

    return zlib.decompress(base64.b64decode(figure.state["payload"])).decode(errors="replace")


def test_asking_for_answers_alone_sees_it(digits):
    """What the warning advises: steps longer than the model's own find the information of the network behind it."""
    images, _ = digits
    model = Before(MASKED["31 levels"])
    box = fv.BlackBox(model, as_torch=True)
    found = fv.spectrum(box, images, probes=64, step=1.0).spectral_norm
    truth = fv.spectrum(fv.zoo.load(ZOO), images).spectral_norm
    assert (found > 0).all()
    assert torch.corrcoef(torch.stack([found.log(), truth.log()]))[0, 1] > 0.8


class Fn(nn.Module):
    def __init__(self, fn):
        super().__init__()
        self.fn, self.last = fn, nn.Linear(64, 3)

    def forward(self, x):
        return self.fn(self.last, x.flatten(1))


def sequential(*layers):
    return nn.Sequential(nn.Flatten(), *layers).eval()


def dead():
    net = sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    net[1].bias.data -= 100
    return net


def nearly_dead():
    """Its last units wake up half-way to white: slope and change are 0 until then."""
    net = sequential(nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))
    net[1].weight.data.abs_()
    net[1].bias.data = -0.75 * net[1].weight.data.sum(1)
    return net


def constant():
    net = sequential(nn.Linear(64, 3))
    nn.init.zeros_(net[1].weight)
    return net


def half():
    return sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)).to(torch.bfloat16)


def pooled():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3)).eval()


def rough():
    """Deep, of random weights, each layer brought back to unit scale: a slope holds for a thousandth of a level."""
    layers = [layer for _ in range(30) for layer in (nn.Linear(64, 64), nn.BatchNorm1d(64, momentum=1.0), nn.ReLU())]
    net = nn.Sequential(nn.Flatten(), *layers, nn.Linear(64, 10))
    with torch.no_grad():
        net(torch.rand(256, 1, 8, 8))
    return net


HONEST = {
    "rough": rough,
    "constant": constant,
    "dead": dead,
    "nearly dead": nearly_dead,
    "max pool": pooled,
    "bfloat16": half,
    "float64": lambda: sequential(nn.Linear(64, 3)).double(),
    "steep": lambda: Fn(lambda last, x: 1e7 * last(x)),
    "hardly reacting": lambda: Fn(lambda last, x: last(1e-5 * x)),
    "saturated inside": lambda: Fn(lambda last, x: last(torch.tanh(30 * (x - 0.5)))),
    "clipped": lambda: Fn(lambda last, x: last((4 * x - 1.5).clamp(0, 1))),
    "clamped to its range": lambda: Fn(lambda last, x: last(x.clamp(0, 1))),
    "8 bits, straight through": lambda: Before(lambda x: Through.apply(x, 255)),
    "4 bits, straight through": lambda: Before(lambda x: Through.apply(x, 15)),
    "fake quantised": lambda: Fn(lambda last, x: last(torch.fake_quantize_per_tensor_affine(x, 1 / 255, 0, 0, 255))),
    "weights in 4 bits": lambda: Fn(lambda last, x: nn.functional.linear(x, Through.apply(last.weight, 15))),
    "sorted": lambda: Fn(lambda last, x: last(x.sort(1).values)),
    "a step of thousands a pixel": lambda: Fn(lambda last, x: last(torch.sigmoid(4000 * (x - 0.45)))),
    "a branch without gradient": lambda: Fn(lambda last, x: last(x) + 0.1 * last(x.detach())),
}


@pytest.mark.parametrize("name", HONEST)
@pytest.mark.parametrize("images", ["noise", "flat", "black and white"])
def test_all_others_are_left_alone(name, images):
    torch.manual_seed(1)
    x = torch.rand(3, 1, 8, 8)
    x = {"noise": x, "flat": torch.full_like(x, 0.3), "black and white": (x > 0.5).float()}[images]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        net = fv.Classifier(HONEST[name]().eval())
        assert fv.spectrum(net, x).guarantee != "void"


@pytest.mark.parametrize("name", fv.zoo.names())
def test_networks_of_the_zoo(name, digits):
    net = fv.zoo.load(name)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for temperature in (1.0, 0.125):
            twin = fv.Classifier(net.model, mean=net.mean, std=net.std, temperature=temperature)
            twin(digits[0])
            assert not twin.undescribed


def test_real_networks(realdata):
    """Real ones, robust ones whose first layer is nearly a threshold among them, and with larger logits."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name, (*_, images) in realdata.NETWORKS.items():
            if images is None:
                continue
            x = realdata.images(images, 4)[0]
            for temperature in (1.0, 0.125):
                net = fv.Classifier(realdata.network(name), temperature=temperature)
                net(x)
                assert not net.undescribed
