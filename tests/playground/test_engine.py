"""The network in the page is the network: its probabilities, λ₁ and v₁ are Python's, for every kind of layer.

So are those of the same program carried out by torch, which `numbers()` of the page asks.
"""

import copy
import json
import shutil
import subprocess

import numpy as np
import pytest
import torch
from torch import nn

import fimviz as fv
from fimviz.playground.program import NoRuleError
from fimviz.playground.record import record
from fimviz.playground.seen import look
from fimviz.views.kit import module as modules
from fimviz.views.kit.payload import Payload
from fimviz.views.playground.view import packed

NODE = shutil.which("node")
SCRIPT = """
import { readFileSync } from "node:fs";
import { unpack } from "FOLDER/kit/pixels.js";
import { Network } from "FOLDER/playground/network.js";
import { look, flip } from "FOLDER/playground/fisher.js";
const { data, part } = await unpack(readFileSync(0, "utf8"));
const out = data.cases.map(({ program, images }) => {
  const network = new Network(program, part);
  const all = new Float64Array(part(images));
  const n = network.sizes[0];
  return Array.from({ length: all.length / n }, (_, i) => {
    const seen = look(network, all.slice(i * n, (i + 1) * n));
    return [[...seen.p], seen.eigenvalues, [...seen.v]];
  });
});
console.log(JSON.stringify(out));
"""


def in_page(cases):
    """What the page says of images by programs: p, eigenvalues and v₁ of each."""
    if NODE is None:
        return []  # the browser's test asks the page for the same numbers
    payload = Payload()
    data = {
        "cases": [
            {"program": packed(payload, program), "images": payload.add(images.double().numpy())}
            for program, images in cases
        ]
    }
    done = subprocess.run(
        [NODE, "--input-type=module", "-e", SCRIPT.replace("FOLDER", modules.VIEWS.as_uri())],
        input=payload.pack(data), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def agree(nets, images, tolerance=1e-9):
    """That the program, in torch and in the page, says what Python says in float64.

    In float32 Python is off by what `Spectrum.error` says.
    """
    nets = [fv.Classifier(net) if isinstance(net, nn.Module) else net for net in nets]
    cases = [(record(net, net.admit(x)), net.admit(x)) for net, x in zip(nets, images, strict=True)]
    mine = [look(program, x.flatten(1)) for program, x in cases]
    both = [zip(s.probabilities.tolist(), s.eigenvalues.tolist(), s.v.tolist(), strict=True) for s in mine]
    pages = in_page(cases)
    for net, x, page in [*zip(nets, images, both, strict=True), *zip(nets, images, pages, strict=bool(pages))]:
        twin = copy.copy(net)  # apart() would give the copy that others share
        twin.model, twin.likelihood, twin._probed = copy.deepcopy(net.model).double(), net._wanted, False
        truth = fv.spectrum(twin, net.admit(x))
        count = truth.eigenvalues.shape[1]
        for i, (p, eigenvalues, v) in enumerate(page):
            assert np.abs(np.array(p) - truth.probabilities[i].numpy()).max() < tolerance
            top = float(truth.spectral_norm[i])
            assert np.abs(np.array(eigenvalues[:count]) - truth.eigenvalues[i].numpy()).max() < tolerance * top
            if count > 1 and float(truth.eigenvalues[i, 1]) > 0.999 * top:
                continue  # any direction between two is as good
            cosine = abs(float(torch.tensor(v, dtype=torch.float64) @ truth.eigenvectors[i, 0].flatten().double()))
            assert cosine > 1 - 100 * tolerance, "which eigenvectors of float32 lengths allow"


def test_every_network_of_the_zoo():
    images, _ = fv.zoo.digits()
    nets = [fv.zoo.load(name) for name in fv.zoo.names()]
    agree(nets, [images[:3]] * len(nets))


class Residual(nn.Module):
    def __init__(self, *layers):
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x):
        y = self.layers(x)
        y += x
        return torch.relu_(y)


class Functional(nn.Module):
    """What is written with operators and functions instead of layers."""

    def __init__(self):
        super().__init__()
        self.scale, self.head = nn.Parameter(torch.rand(3, 1, 1) + 0.5), nn.Linear(12, 4)

    def forward(self, x):
        y = nn.functional.pad(x, (1, 2, 0, 0)) * self.scale - 0.2
        y = torch.cat([y[..., ::2, 1:7], 1 / (1 + y[..., 1::2, :6] ** 2)], 1)
        y = torch.maximum(y, y.flip(-1)) / (1.5 + y.tanh()) - y.roll(1, -2)
        parts = y.chunk(2, 1)
        y = torch.stack([parts[0].mean((2, 3)), (parts[1].exp() * parts[0]).sum((-1, -2)) / 50], 1)
        gate = torch.einsum("bij,bkj->bik", y, y).softmax(1) @ y
        return self.head(torch.cat([y.flatten(1), 2 - gate.flatten(1)], 1)).log_softmax(1)


class Attending(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.patches, self.layer, self.head = nn.Conv2d(1, 8, 2, 2), layer, nn.Linear(8, 4)

    def forward(self, x):
        x = self.patches(x).flatten(2).mT
        y = self.layer(x, x, x)[0] if isinstance(self.layer, nn.MultiheadAttention) else self.layer(x)
        return self.head(y.mean(1))


SMOOTH = [
    nn.Sigmoid,
    nn.Tanh,
    nn.SiLU,
    nn.GELU,
    nn.Softplus,
    nn.ELU,
    nn.SELU,
    nn.CELU,
    nn.Mish,
    nn.LogSigmoid,
    nn.Softsign,
    nn.Tanhshrink,
]
KINKED = [nn.ReLU, nn.LeakyReLU, nn.ReLU6, nn.Hardtanh, nn.Hardswish, nn.Hardsigmoid, nn.PReLU]
LAYERS = {
    **{kind.__name__: lambda kind=kind: (nn.Conv2d(1, 3, 3), kind()) for kind in [*SMOOTH, *KINKED]},
    "GELU by tanh": lambda: (nn.Conv2d(1, 3, 3), nn.GELU("tanh")),
    "strides": lambda: (nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 2, (1, 2), stride=(1, 2))),
    "groups": lambda: (nn.Conv2d(1, 6, 3), nn.Tanh(), nn.Conv2d(6, 9, 3, groups=3, padding=2, dilation=2)),
    "padding": lambda: (nn.Conv2d(1, 3, 3, padding="same"), nn.Conv2d(3, 3, 3, 1, 1, padding_mode="reflect")),
    "depthwise": lambda: (nn.Conv2d(1, 4, 3), nn.SiLU(), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 5, 1)),
    "batch norm": lambda: (nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(True), nn.Flatten(), nn.BatchNorm1d(144)),
    "layer norm": lambda: (nn.Conv2d(1, 4, 3), nn.LayerNorm([6, 6]), nn.GELU()),
    "group norm": lambda: (nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()),
    "max pool": lambda: (nn.Conv2d(1, 3, 2), nn.MaxPool2d(3, 2, padding=1), nn.Tanh(), nn.MaxPool2d(2, 1, dilation=2)),
    "ceiling": lambda: (nn.Conv2d(1, 3, 2), nn.MaxPool2d(2, ceil_mode=True), nn.Tanh(), nn.AvgPool2d(3, 2, 1, True)),
    "average pool": lambda: (nn.Conv2d(1, 3, 2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(2, 1, 1, count_include_pad=False)),
    "adaptive pool": lambda: (nn.Conv2d(1, 3, 2), nn.Tanh(), nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveMaxPool2d(2)),
    "global pool": lambda: (nn.Conv2d(1, 6, 3), nn.ELU(), nn.AdaptiveAvgPool2d(1)),
    "upsampling": lambda: (nn.Conv2d(1, 4, 3, stride=2), nn.Upsample(scale_factor=2), nn.Tanh(), nn.PixelShuffle(2)),
    "residual": lambda: (nn.Conv2d(1, 3, 3), Residual(nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Dropout())),
}  # fmt: skip
WHOLE = {
    "functions": Functional,
    "attention": lambda: Attending(nn.MultiheadAttention(8, 2, batch_first=True)),
    "transformer": lambda: Attending(nn.TransformerEncoderLayer(8, 2, 12, batch_first=True, norm_first=True)),
    "two classes": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 2)),
    "float64": lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 5), nn.Tanh(), nn.Linear(5, 3)).double(),
}


def built(make, x):
    torch.manual_seed(0)
    made = make()
    net = nn.Sequential(*made, nn.Flatten(), nn.LazyLinear(4)) if isinstance(made, tuple) else made
    for m in net.modules():
        if isinstance(m, nn.modules.batchnorm._BatchNorm):
            m.running_mean.uniform_(-0.2, 0.2)
            m.running_var.uniform_(0.5, 1.5)
    net.eval()(x.to(next(net.parameters()).dtype) if "float64" in str(next(net.parameters()).dtype) else x)
    return net


def test_every_kind_of_layer():
    torch.manual_seed(0)
    x = torch.rand(3, 1, 8, 8)
    nets = [built(make, x) for make in [*LAYERS.values(), *WHOLE.values()]]
    agree(nets, [x] * len(nets))


def test_normalisation_temperature_and_a_single_logit():
    torch.manual_seed(0)
    colour = torch.rand(2, 3, 6, 5)
    nets = [
        fv.Classifier(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)),
                      mean=[0.1, 0.2, 0.3], std=[0.5, 0.6, 0.7], temperature=2.0),
        fv.Classifier(nn.Sequential(nn.Flatten(), nn.Linear(90, 1)), likelihood="bernoulli"),
    ]  # fmt: skip
    agree(nets, [colour, colour])


def lenet():
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(), nn.AvgPool2d(2),
        nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10),
    )  # fmt: skip


def test_a_lenet_of_28_by_28():
    torch.manual_seed(0)
    agree([lenet()], [torch.rand(2, 1, 28, 28)])


def test_trained_networks_of_28_by_28(realdata):
    images = realdata.images("mnist-test", 4)[0]
    agree([realdata.network(f"mnist-lenet5{kind}") for kind in ("", "-robust")], [images] * 2)


class Odd(nn.Module):
    def __init__(self, run):
        super().__init__()
        self.run, self.head = run, nn.Linear(64, 3)

    def forward(self, x):
        return self.head(self.run(x).flatten(1))


class Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.relu()

    @staticmethod
    def backward(ctx, g):
        return g


@pytest.mark.parametrize(
    ("net", "named"),
    [
        (Odd(Straight.apply), "goes back through Straight, an autograd function of its own"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ConvTranspose2d(2, 1, 3), nn.Flatten(), nn.Linear(64, 3)),
         "no rule carries the transposed convolution of 1 (ConvTranspose2d)"),
        (Odd(lambda x: x.cumsum(-1)), "no rule carries cumsum of Odd"),
        (Odd(lambda x: x * 2 if float(x.sum()) > 1 else x), "Odd decides by the values"),
        (Odd(lambda x: x.unflatten(2, (2, 4)).amax(2).repeat(1, 1, 2, 1)), "no rule carries amax of Odd"),
    ],
    ids=["straight", "transposed", "cumsum", "decides", "largest"],
)  # fmt: skip
def test_a_layer_without_a_rule_is_refused_by_name(net, named):
    with pytest.raises(NoRuleError) as refused:
        record(fv.Classifier(net), torch.rand(1, 1, 8, 8))
    assert named in str(refused.value)
    assert "\n" not in str(refused.value)
