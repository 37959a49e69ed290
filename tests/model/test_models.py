"""What strangers hand over as a model: told what it is and what to do, or looked through."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.svm import LinearSVC
from torch import nn
from torch.optim.swa_utils import AveragedModel

import fimviz as fv


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 5)).eval()


class InferenceSession:
    """As onnxruntime has it, known by the library's name."""

    __module__ = "onnxruntime.capi.onnxruntime_inference_collection"


class ImageClassificationPipeline:
    __module__ = "transformers.pipelines.image_classification"

    def __init__(self):
        self.model = network()

    def __call__(self, images):
        return []


BOX = r"if it can only be asked, fv.BlackBox\("
NO_MODULES = [
    (nn.Linear, r"got the class Linear: make one of it, Linear\(...\)"),
    (network().state_dict(), r"got weights \(a OrderedDict of tensors\): build the network and model.load_state_dict"),
    ({"epoch": 3, "state_dict": network().state_dict()}, "got a dict of epoch, state_dict: look at its 'state_dict'"),
    ("resnet18", r"got 'resnet18': load it, for instance fv.from_torchvision\('resnet18'\)"),
    (lambda x: x, f"got the function <lambda>: if torch can differentiate it, put it in a module; {BOX}predict"),
    (InferenceSession(), rf"got an ONNX InferenceSession: {BOX}lambda x: session.run\(None"),
    (LogisticRegression(), rf"got a LogisticRegression: {BOX}lambda x: model.predict_proba\(.*outputs='probabilities'"),
    (LinearSVC(), "got a LinearSVC without predict_proba: labels alone"),
    (ImageClassificationPipeline(), "got a ImageClassificationPipeline: fv.from_transformers"),
    ([network(), network()], "got a list of 2 modules: pass one"),
    (fv.Classifier(network()), "got a Classifier: it is one already"),
    (None, "got NoneType"),
]


@pytest.mark.parametrize(("given", "said"), NO_MODULES)
def test_what_is_no_module_is_told_what_to_do(given, said):
    with pytest.raises(TypeError, match=f"(?s){said}"):
        fv.Classifier(given)


DOORS = {
    "explore": lambda net, x, y: fv.explore(net, x, y),
    "vulnerability": lambda net, x, y: fv.vulnerability(net, x, y),
    "attributions": lambda net, x, y: fv.attributions(net, x),
    "certified_radius": lambda net, x, y: fv.certified_radius(net, x),
    "trace_margins": lambda net, x, y: fv.trace_margins(net, x, y),
    "cckl": lambda net, x, y: fv.cckl(net, x, y),
    "compare_models": lambda net, x, y: fv.compare_models({"a": net, "b": net}, x, y),
    "monitor": lambda net, x, y: fv.FisherMonitor(net, x, y),
    "pgd": lambda net, x, y: fv.attacks.pgd(net, x, y, 0.1),
}


@pytest.mark.parametrize("door", DOORS)
def test_every_door_says_the_same(door):
    x, y = torch.rand(2, 3, 8, 8), [0, 1]
    with pytest.raises(TypeError, match="a BlackBox, which gives answers and no gradients"):
        DOORS[door](fv.BlackBox(lambda v: v.reshape(len(v), -1)[:, :3] + 1), x, y)
    with pytest.raises(TypeError, match=BOX):
        DOORS[door](np.tanh, x, y)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel, AveragedModel, lambda m: torch.compile(m, backend="eager"),
        lambda m: nn.DataParallel(AveragedModel(m)),
    ],
)  # fmt: skip
def test_wrappers_are_looked_through(wrap):
    plain, x = network(), torch.rand(2, 3, 8, 8)
    wrapped = wrap(plain).eval()
    for bound in (fv.bounds.network_bound, fv.bounds.local_bound):
        ours, theirs = bound(wrapped, x), bound(plain, x)
        assert torch.equal(torch.as_tensor(ours.features), torch.as_tensor(theirs.features))
    assert torch.allclose(fv.spectrum(wrapped, x).spectral_norm, fv.spectrum(plain, x).spectral_norm)


@pytest.mark.parametrize("ask", ["retain_grad", "register_hook"])
def test_hooks_that_ask_for_gradients(ask):
    plain, hooked, x = network(), network(), torch.rand(2, 3, 8, 8)
    hooked[1].inplace = True
    kept = []

    def hook(module, inputs, output):
        kept.append(output)
        output.retain_grad() if ask == "retain_grad" else output.register_hook(lambda g: None)

    hooked[0].register_forward_hook(hook)
    ours, theirs = fv.Classifier(hooked), fv.Classifier(plain)
    assert torch.allclose(ours(x), theirs(x))
    assert not ours(x).requires_grad
    for method in ("exact", "lanczos", "power"):
        s = fv.spectrum(ours, x, k=1, method=method)
        assert torch.allclose(s.spectral_norm, fv.spectrum(theirs, x, k=1, method=method).spectral_norm, rtol=1e-5)
    assert torch.equal(s.walk(eps=[0.1]).kl, fv.spectrum(theirs, x, k=1, method="power").walk(eps=[0.1]).kl)
    assert fv.bounds.local_bound(ours, x).features.equal(fv.bounds.local_bound(theirs, x).features)
    x.requires_grad_()
    assert torch.autograd.grad(ours(x)[0, 0], x)[0].any()


def test_products_in_forward_mode_keep_their_tangents_beside_such_hooks():
    plain, hooked = network(), network()
    hooked[0].register_forward_hook(lambda m, i, o: o.retain_grad())
    x, v = torch.rand(2, 3, 8, 8), torch.rand(2, 3, 8, 8)
    found = []
    for net in (fv.Classifier(plain), fv.Classifier(hooked)):
        net.admit(x)
        with net.at_rest(), torch.no_grad(), torch.autograd.forward_ad.dual_level():
            z = net.logits(torch.autograd.forward_ad.make_dual(x, v))
            found.append(torch.autograd.forward_ad.unpack_dual(z).tangent.detach())
    assert found[0].any()
    assert torch.allclose(*found)


def quantised_in_full():
    from torch.ao import quantization

    class Ends(nn.Sequential):
        def __init__(self, inner):
            super().__init__(quantization.QuantStub(), inner, quantization.DeQuantStub())

    engines = torch.backends.quantized.supported_engines
    torch.backends.quantized.engine = engine = next(e for e in ("onednn", "fbgemm", "qnnpack") if e in engines)
    model = Ends(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))).eval()
    model.qconfig = quantization.get_default_qconfig(engine)
    quantization.prepare(model, inplace=True)
    model(torch.rand(4, 3, 8, 8))
    return quantization.convert(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_quantised_networks_are_told_apart_from_detached_ones():
    x = torch.rand(2, 3, 8, 8)
    dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Flatten(), nn.Linear(192, 5)), {nn.Linear})
    for model in (dynamic, quantised_in_full()):
        with pytest.raises(ValueError, match=r"is quantised .* have no gradient: pass the network of floats"):
            fv.spectrum(model, x)
    assert fv.BlackBox(dynamic, as_torch=True)(x).shape == (2, 5)


@pytest.mark.parametrize(
    "given",
    [
        torch.ones(2, 7).long(), torch.ones(2, 7).int().numpy(), [[1, 2], [3, 4]], ["a cat", "a dog"],
        {"input_ids": torch.ones(2, 7).long()}, torch.rand(2, 7),
    ],
)  # fmt: skip
def test_token_ids_are_no_pixels(given):
    class Texts(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids):
            return self.head(self.words(ids).mean(1))

    with pytest.raises(TypeError, match=r"looks up token ids in an embedding, .* \(inputs_embeds of Hugging Face\)"):
        fv.spectrum(Texts(), given)


@pytest.mark.parametrize(
    ("model", "shape", "batch"),
    [
        (network(), (3, 8, 8), r"\(n, 3, 8, 8\)"),
        (nn.DataParallel(network()), (3, 8, 8), r"\(n, 3, 8, 8\)"),
        (nn.Sequential(nn.Conv1d(2, 3, 3), nn.Flatten(), nn.Linear(24, 4)), (2, 10), r"\(n, 2, 10\)"),
        (nn.Sequential(nn.Conv3d(2, 3, 3), nn.Flatten(), nn.Linear(24, 4)), (2, 4, 4, 4), r"\(n, 2, 4, 4, 4\)"),
        (nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), (1, 64), None),
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), (3, 8, 8), r"\(n, 3, 8, 8\)"),
    ],
)
def test_a_forgotten_batch_axis_is_told_before_the_model_is_called(model, shape, batch):
    called = []
    model.register_forward_pre_hook(lambda *_: called.append(1))
    x = torch.rand(shape)
    if batch is None:
        fv.spectrum(model, x)
    else:
        said = (
            rf"images have shape \({', '.join(map(str, shape))}\): one image\? .* a batch {batch}: pass images\[None\]"
        )
        with pytest.raises(ValueError, match=said):
            fv.spectrum(model, x)
        assert not called
        fv.spectrum(model, x[None])


def test_a_batch_without_channels_is_no_forgotten_axis():
    class Unsqueezes(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(72, 4))

        def forward(self, x):
            return self.inner(x[:, None])

    for n in (1, 2, 3):
        assert len(fv.spectrum(Unsqueezes(), torch.rand(n, 8, 8))) == n
