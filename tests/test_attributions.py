"""Attributions beside directions: closed forms, chance, and what captum can be asked by name."""

import sys
import warnings

import numpy as np
import pytest
import torch

import fimviz as fv


@pytest.fixture(scope="module")
def some():
    images, _ = fv.zoo.digits()
    return fv.attributions(fv.zoo.load("digits-resnet"), images[:6])


def test_a_linear_model_has_closed_forms():
    torch.manual_seed(0)
    model = torch.nn.Linear(7, 3).double()
    net = fv.Classifier(model)
    x = torch.rand(5, 7, dtype=torch.float64)
    methods = ["Saliency", "InputXGradient", "IntegratedGradients", "FeatureAblation", "DeepLift"]
    a = fv.attributions(net, x, methods=methods)
    w = model.weight.detach()[a.targets]
    assert torch.allclose(a.maps[:, 0], w)
    for j in range(1, 5):
        assert torch.allclose(a.maps[:, j], w * x, atol=1e-6), methods[j]
    v = a.spectrum.eigenvectors[:, 0].abs()
    assert torch.allclose(a.cosine[:, 0], torch.nn.functional.cosine_similarity(w.abs(), v))


def test_two_classes_with_opposite_weights_agree_fully():
    model = torch.nn.Linear(6, 2, bias=False).double()
    model.weight.data[1] = -model.weight.data[0]
    a = fv.attributions(model, torch.rand(4, 6, dtype=torch.float64), methods="Saliency")
    assert torch.allclose(a.cosine, torch.ones(4, 1).double())
    assert torch.allclose(a.rank, torch.ones(4, 1).double())
    assert "more than at random" in repr(a)


def test_random_maps_score_what_chance_says():
    x = torch.rand(8, 400)
    net = fv.Classifier(torch.nn.Linear(400, 3))
    a = fv.attributions(net, x, methods="Saliency")
    noise = torch.randn(8, 1, 400, generator=torch.Generator().manual_seed(5))
    other = fv.Attributions(a.methods, noise, a.targets, a.spectrum, 1, a.gap)
    assert float(other.cosine.mean()) == pytest.approx(other.chance[0], abs=0.03)
    assert abs(float(other.rank.mean())) < 0.05
    assert abs(other.chance[1]) < 0.02
    assert "no more than at random" in other.verdict


def test_the_frame_the_plot_and_the_view(some):
    frame = some.frame
    assert list(frame) == ["sample", "method", "target", "cosine", "rank", "gap", "failure"]
    assert len(frame) == 18
    assert frame.cosine.between(0, 1).all()
    assert frame["rank"].between(-1, 1).all()
    assert some.maps.shape == (6, 3, 1, 8, 8)
    assert len(some.plot().data) == 3
    assert "fragile" in some.view().html()
    assert torch.equal(some.targets, some.spectrum.predictions)


@pytest.mark.parametrize("name", ["GuidedBackprop", "GradientShap", "DeepLiftShap", "KernelShap"])
def test_other_methods_by_name_leave_the_model_and_the_process_as_they_were(name):
    images, labels = fv.zoo.digits()
    net = fv.zoo.load("digits-vgg")
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()
    a = fv.attributions(net, images[:2], labels[:2], methods=name)
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(numpy_state, np.random.get_state()[1])
    assert torch.equal(a.maps, fv.attributions(net, images[:2], labels[:2], methods=name).maps)
    assert a.maps.isfinite().all()
    assert a.maps.any()
    assert not any(m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in net.model.modules())
    assert all(p.requires_grad for p in net.model.parameters())


def test_occlusion_windows_follow_the_image_and_options_pass_through():
    window = sys.modules["fimviz.attributions"]._window
    assert window(torch.zeros(1, 1, 8, 8)) == ((1, 2, 2), (1, 1, 1))
    assert window(torch.zeros(1, 3, 224, 224)) == ((3, 16, 16), (3, 8, 8))
    assert window(torch.zeros(1, 5)) == ((1,), (1,))
    images, _ = fv.zoo.digits()
    net = fv.zoo.load("digits-mlp")
    whole = {"Occlusion": {"sliding_window_shapes": (1, 8, 8), "strides": (1, 8, 8)}}
    a = fv.attributions(net, images[:2], methods="Occlusion", options=whole)
    with net.at_rest(), torch.no_grad():
        gap = net.logits(images[:2]) - net.logits(torch.zeros_like(images[:2]))
    assert torch.allclose(a.maps[:, 0, 0, 0, 0], gap.gather(1, a.targets[:, None])[:, 0], atol=1e-4)
    assert a.rank.isnan().all()  # a flat map has no order


class Functional(torch.nn.Module):
    """As most CIFAR ResNets call their activations: captum's rules see modules only."""

    def __init__(self, modules):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = torch.nn.Linear(64, 32), torch.nn.Linear(32, 4)
        self.act = torch.nn.ReLU() if modules else torch.relu

    def forward(self, x):
        return self.last(self.act(self.first(x.flatten(1))))


def test_maps_that_are_not_complete_say_so():
    x = fv.zoo.digits().images[:3]
    methods = ["DeepLift", "DeepLiftShap", "IntegratedGradients", "Saliency", "GradientShap"]
    with pytest.warns(UserWarning, match=r"DeepLift miss \d+% .* they are input × gradient here, .* nn.ReLU") as told:
        a = fv.attributions(Functional(modules=False), x, methods=methods)
    assert ["Shap" in str(w.message).split("(")[0] for w in told] == [False, True]
    model = Functional(modules=False)
    whole = (model(x) - model(0 * x)).gather(1, a.targets[:, None]).double().detach()
    sums = a.maps.flatten(2).double().sum(2)
    assert torch.allclose(a.gap[:, [0, 1, 2, 4]], ((sums - whole) / whole).abs()[:, [0, 1, 2, 4]], atol=1e-4)
    assert (a.gap[:, 2] < 0.05).all()
    assert a.gap[:, 3].isnan().all()
    assert torch.equal(torch.tensor(a.frame.gap.values).isnan(), torch.isnan(a.gap.flatten()))
    assert "misses of completeness" in a.view().html()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        b = fv.attributions(Functional(modules=True), x, methods=methods)
    assert (b.gap[:, :2] < 1e-5).all()


def test_baselines_of_ones_own_count_in_what_is_missed():
    x = fv.zoo.digits().images[:2]
    base = torch.full_like(x[:1], 0.5)
    for given in (0.5, base, (base,), base.expand(2, -1, -1, -1)):
        a = fv.attributions(Functional(True), x, methods="DeepLift", options={"DeepLift": {"baselines": given}})
        assert (a.gap < 1e-4).all(), given
    with pytest.warns(UserWarning, match=r"IntegratedGradients miss .*: take more steps"):
        fv.attributions(Functional(True), x, methods="IntegratedGradients",
                        options={"IntegratedGradients": {"n_steps": 1}})  # fmt: skip
    with pytest.raises(ValueError, match="in the frame's gap"):
        fv.attributions(Functional(True), x, methods="DeepLift", options={"DeepLift": {"return_convergence_delta": 1}})


def test_what_is_wrong_is_said():
    net, x = fv.zoo.load("digits-mlp"), fv.zoo.digits().images[:2]
    with pytest.raises(ValueError, match="did you mean Saliency"):
        fv.attributions(net, x, methods="Salience")
    with pytest.raises(ValueError, match="takes inputs and a target"):
        fv.attributions(net, x, methods="LayerGradCam")
    with pytest.raises(ValueError, match="options has an entry for 'Occlusion'"):
        fv.attributions(net, x, methods="Saliency", options={"Occlusion": {}})
    with pytest.raises(ValueError, match="spectrum is not that"):
        fv.attributions(net, x, spectrum=fv.spectrum(net, x, k=1, vectors=False))
