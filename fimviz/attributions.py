"""`attributions`: what captum says that the model looks at, beside the direction in which it is most fragile."""

from __future__ import annotations

import difflib
import inspect
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fimviz._options import named_options, whole
from fimviz._quantile import median
from fimviz._ranks import ranks
from fimviz._tell import tell
from fimviz.fisher.methods import spectrum as fisher_spectrum
from fimviz.fisher.spectrum import Spectrum
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.drawn import Drawn
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work, in_parts
from fimviz.model.engine.plan import there_and_back
from fimviz.model.engine.progress import Stages, wanted
from fimviz.model.failures import column, known, said, settle
from fimviz.model.labels import read_labels
from fimviz.result import Result

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from fimviz.result import Figure

_STEPS = 32  # of an integral, unless asked for otherwise
_CHANCE, _DRAWN = 200, 2**20  # random directions, for what would agree by chance, and about how many numbers in them
# Methods whose map is to sum to f(x) − f(baseline), by rule or in the mean over what they draw.
_BY_RULE = ("DeepLift", "DeepLiftShap", "IntegratedGradients", "ShapleyValues", "ShapleyValueSampling")
_COMPLETE = (*_BY_RULE, "GradientShap", "KernelShap")
INCOMPLETE = 0.05  # of f(x) − f(baseline), beyond which a map is not what its method promises


@named_options
def attributions(
    net: Classifier | nn.Module,
    images: Any,
    targets: Any = None,
    *,
    methods: Sequence[str] = ("Saliency", "IntegratedGradients", "Occlusion"),
    spectrum: Spectrum | None = None,
    options: dict[str, dict[str, Any]] | None = None,
    max_memory: float | None = None,
    errors: str = "mark",
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = False,
) -> Attributions:
    """Attribution maps of the target's logit, and how alike they are to the worst direction v₁.

    Args:
        net: a `Classifier` of one of K classes, or a module from pixels in [0, 1] to logits.
        images: (n, …) floats, or a data set (see `Classifier`).
        targets: classes (n,) whose logits are explained; None for the model's predictions.
        methods: names of classes of captum.attr that take inputs and a target: "Saliency", "InputXGradient",
            "IntegratedGradients", "DeepLift", "Occlusion", "FeatureAblation", "KernelShap", …
        spectrum: of these images, with eigenvectors, if it is at hand already.
        options: method → further options of its `attribute`, as {"Occlusion": {"sliding_window_shapes": (1, 3, 3)}}.
            Unless given: a baseline of the lowest input value, 32 steps of an integral, and for "Occlusion" a square
            of all channels that is a fourteenth of the image wide, at least 2, moved by half of that.
        max_memory: bytes that it may take beside model and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", its maps are NaN and the frame
            says why, or "raise".
        seed: of methods that draw, and of the directions by which chance is measured.
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    The maps of "IntegratedGradients", "DeepLift" and the Shapley methods are complete: they sum to f(x) − f(baseline).
    What they miss of it stands in the frame; a median above 5 % is warned of. captum's DeepLift changes the rules of
    modules, so that beside activations that are called as functions its map is input × gradient.

    Both are compared without signs: that of an eigenvector is a convention, and methods differ in theirs.

    Raises:
        ValueError: an unknown method, or one that needs more than inputs and a target, as a layer.

    Example, one logit's gradient against the whole Fisher information: of two classes, the same two pixels.
        >>> import torch, fimviz as fv
        >>> a = fv.attributions(torch.nn.Identity(), torch.tensor([[0.5, 0.25]]), methods=["Saliency"])
        >>> a.maps[0, 0].tolist(), round(a.cosine.item(), 4)
        ([1.0, 0.0], 0.7071)
    """
    names = _names(methods)
    extra = {} if options is None else dict(options)
    if unknown := [name for name in extra if name not in names]:
        raise ValueError(f"options has an entry for {unknown[0]!r}, expected one of the methods {', '.join(names)}")
    if any("return_convergence_delta" in own for own in extra.values()):
        raise ValueError("return_convergence_delta is not taken: what maps miss of completeness is in the frame's gap")
    errors, seed = known(errors), whole("seed", seed, 0)
    progress, max_memory = wanted(progress), limit(max_memory)
    net = as_classifier(net)
    x = net.admit(images, max_memory).detach()
    net.likelihood.one_of_classes("an attribution explains one")
    classes = read_labels(targets, len(x), net)
    kinds = [(name, _passes(name, x, extra.get(name, {}))) for name in names]
    own = 1.0 + 2 * min(len(net.classes) - 1, 25) if spectrum is None else 0.0
    bar = Stages(progress, [(kind, cost * len(x)) for kind, cost in (("spectrum", own), *kinds)])
    tick = bar.next()
    if spectrum is None:
        s = fisher_spectrum(net, x, k=1, seed=seed, max_memory=max_memory, errors=errors, progress=tick)
    else:
        s = spectrum
    count = len(s) if spectrum is None else len(x)  # an interrupted one is shorter
    if not isinstance(s, Spectrum) or s.eigenvectors is None or not torch.equal(s.images, x[:count].cpu()):
        raise ValueError("spectrum is not that of these images with eigenvectors: leave it out to have it computed")
    if not net.same_as(s.net):
        raise ValueError("spectrum is of another model, expected that of this one: leave it out to have it computed")
    if spectrum is not None:
        s.unchanged("attributions(spectrum=…)")
    settle(s.failures, len(s), errors)
    classes = s.predictions if classes is None else classes
    maps = torch.full((len(x), len(names), *x.shape[1:]), torch.nan, dtype=x.dtype)
    gap = torch.full((len(x), len(names)), torch.nan, dtype=torch.float64)
    gradient = torch.zeros(len(names), dtype=torch.bool)
    work, places = Work(len(s)), s.computed

    def explained(some: list[int]) -> None:
        at, rest = places[some], len(places) - some[-1] - 1
        bar.expect([(kind, cost * count) for count in (len(some), rest) for kind, cost in kinds])
        part, asked = x[at.to(x.device)].to(net.device), classes[at].to(net.device)
        for j, name in enumerate(names):
            bar.next()
            one, baselines = _explained(name, net, part, asked, extra.get(name, {}))
            maps[at, j] = one.cpu()
            if name in _COMPLETE:
                gap[at, j] = _missed(name, one, net, part, asked, baselines)
            if name.startswith("DeepLift") and not some[0]:
                gradient[j] = _is_input_times_gradient(one, net, part, asked, baselines)

    with work, net.at_rest(), warnings.catch_warnings(), Drawn(seed, "GradientShap" in names):
        warnings.filterwarnings("ignore", module="captum")  # on gradients it turns on, hooks it hangs, what is slow
        for some, _ in in_parts(range(len(places)), there_and_back(net, x, max_memory), explained):
            work.reached(int(places[some[-1]]) + 1)
        work.reached(len(s))
        bar.end()
    done = work.done
    if work.stopped:
        tell(f"{work.stopped}: the result holds the first {done} of {len(x)} inputs")
    _tell_gaps(names, gap[:done], gradient)
    return Attributions(
        methods=names,
        maps=maps[:done],
        targets=classes[:done].cpu(),
        spectrum=s if len(s) == done else s.take(range(done)),
        seed=seed,
        gap=gap[:done],
    )


@dataclass(frozen=True, eq=False, repr=False)
class Attributions(Result):
    """Attribution maps of n inputs by m methods, beside their worst directions.

    Attributes:
        methods: m names of captum.attr.
        maps: (n, m, *input), signed where the method's are, in logits (for gradients, logits per pixel unit).
        targets: (n,) classes that are explained.
        spectrum: of the same inputs, with eigenvectors.
        seed: of what was drawn.
        gap: (n, m) float64, what a map's sum misses of f(x) − f(baseline), as a share of it, where a method promises
            completeness; NaN where it does not. That of methods that draw ("GradientShap") shrinks with their samples.
    """

    methods: tuple[str, ...]
    maps: Tensor
    targets: Tensor
    spectrum: Spectrum
    seed: int
    gap: Tensor

    def __len__(self) -> int:
        return len(self.maps)

    def __repr__(self) -> str:
        return f"Attributions({len(self)} inputs{said(self.spectrum.failures)}: {self.verdict})"

    @cached_property
    def cosine(self) -> Tensor:
        """(n, m) float64 in [0, 1]: the cosine between |map| and |v₁|; NaN where one of them is 0 everywhere."""
        a, b = self._sizes()
        return (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))

    @cached_property
    def rank(self) -> Tensor:
        """(n, m) float64 in [−1, 1]: Spearman's ρ of |map| and |v₁| over the pixels; NaN where one is constant."""
        a, b = (torch.from_numpy(ranks(v.numpy())) for v in self._sizes())
        return (a * b).sum(2) / (a.norm(dim=2) * b.norm(dim=2))

    @cached_property
    def chance(self) -> tuple[float, float]:
        """What a random direction scores beside |v₁|: the mean cosine and mean rank correlation (0 but for noise).

        A cosine of sizes is never near 0: they have no sign. Against a flat map it is √(2/π) for a normal direction.
        """
        v = self._vectors()[self.spectrum.computed[:16]]
        count = min(_CHANCE, max(8, _DRAWN // v.shape[1]))  # of photographs a few tell: the error falls with √pixels
        drawn = torch.randn(count, v.shape[1], generator=torch.Generator().manual_seed(self.seed)).double().abs()
        size = v.norm(dim=1, keepdim=True)
        cosine = (v / size) @ (drawn / drawn.norm(dim=1, keepdim=True)).T
        a, b = (torch.from_numpy(ranks(part.numpy())) for part in (v, drawn))
        rank = (a / a.norm(dim=1, keepdim=True)) @ (b / b.norm(dim=1, keepdim=True)).T
        return float(cosine[size[:, 0] > 0].mean()), float(rank.nanmean())

    @cached_property
    def verdict(self) -> str:
        """Does the model look where it is fragile? In one sentence."""
        by_method = [(median(self.cosine[:, j]), name) for j, name in enumerate(self.methods)]
        score, name = max(by_method, key=lambda pair: -1.0 if pair[0] != pair[0] else pair[0])
        if score != score:
            return "no map and worst direction can be compared, one of them being 0 everywhere"
        part = torch.tensor([c for c, _ in by_method]).nan_to_num(0)
        above = int((part > self.chance[0] + 0.05).sum())
        how = {0: "no more than at random", len(by_method): "by every method more than at random"}.get(
            above, f"by {above} of {len(by_method)} methods more than at random"
        )
        return (
            f"the model looks where it is fragile {how}: |map| and |v₁| have a median cosine of {score:.2f} with "
            f"{name}, and {self.chance[0]:.2f} by chance"
        )

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row a sample and method: sample, method, target, cosine, rank, gap, failure."""
        import pandas as pd

        n, m = self.cosine.shape
        return pd.DataFrame(
            {
                "sample": torch.arange(n).repeat_interleave(m).numpy(),
                "method": list(self.methods) * n,
                "target": self.targets.repeat_interleave(m).numpy(),
                "cosine": self.cosine.flatten().numpy(),
                "rank": self.rank.flatten().numpy(),
                "gap": self.gap.flatten().numpy(),
                "failure": [why for why in column(self.spectrum.failures, n) for _ in range(m)],
            }
        )

    def plot(self) -> go.Figure:
        """The cosines of every sample by method, beside what chance would give, as a plotly figure."""
        return self._plotted()

    @named_options
    def view(self, *, samples: int | None = None, max_bytes: int = 20_000_000) -> Figure:
        """The attribution view: image, worst direction and maps, sample by sample.

        Args:
            samples: how many inputs, the first ones; by default up to 32, fewer of large images.
            max_bytes: refuse a page larger than this.
        """
        return self._viewed(samples=None if samples is None else whole("samples", samples, 1), max_bytes=max_bytes)

    def _vectors(self) -> Tensor:
        assert self.spectrum.eigenvectors is not None
        return self.spectrum.eigenvectors[:, 0].flatten(1).double().abs()

    def _sizes(self) -> tuple[Tensor, Tensor]:
        return self.maps.flatten(2).double().abs(), self._vectors()[:, None]


def _names(methods: Any) -> tuple[str, ...]:
    from captum import attr

    names = tuple(dict.fromkeys((methods,) if isinstance(methods, str) else tuple(methods)))
    valid = [
        name
        for name, c in vars(attr).items()
        if inspect.isclass(c) and issubclass(c, attr.Attribution) and _takes_inputs_and_target(c)
    ]
    for name in names:
        if name not in valid:
            near = difflib.get_close_matches(str(name), valid, 1)
            raise ValueError(
                f"method is {name!r}, expected a class of captum.attr that takes inputs and a target: "
                + (f"did you mean {near[0]}?" if near else ", ".join(sorted(valid)))
            )
    if not names:
        raise ValueError(f"methods is empty, expected some of {', '.join(sorted(valid))}")
    return names


def _takes_inputs_and_target(method: Any) -> bool:
    """Whether a class of captum is made of a model alone and explains its inputs."""
    if not hasattr(method, "attribute"):
        return False
    needed = [p.name for p in inspect.signature(method.__init__).parameters.values() if p.default is p.empty][1:]
    asked = inspect.signature(method.attribute).parameters
    must = {name for name, p in asked.items() if p.default is p.empty and p.kind == p.POSITIONAL_OR_KEYWORD}
    always = must - {"self", "inputs", "baselines", "sliding_window_shapes"}
    return needed in (["forward_func"], ["model"]) and "target" in asked and not always


class _Model(nn.Module):
    """Pixels to logits, with the user's module inside: some methods hang hooks on its layers."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.model = net.model
        self._net = net

    def forward(self, x: Tensor) -> Tensor:
        return self._net.logits(x)


def _explained(name: str, net: Classifier, x: Tensor, targets: Tensor, options: dict[str, Any]) -> tuple[Tensor, Any]:
    """The map, and the baselines that it was asked for."""
    from captum import attr

    method = getattr(attr, name)(_Model(net).eval())
    asked = inspect.signature(method.attribute).parameters
    low = 0.0 if net.input_range is None else net.input_range[0]
    given: dict[str, Any] = {"baselines": low, "n_steps": _STEPS, "internal_batch_size": 4 * len(x)}
    given["sliding_window_shapes"], given["strides"] = _window(x)
    if name in ("GradientShap", "DeepLiftShap"):  # a distribution of baselines, of at least two
        given["baselines"] = torch.full_like(x[:1], low).repeat(2, *[1] * (x.ndim - 1))
    given = {key: value for key, value in given.items() if key in asked} | options
    if name == "Saliency":
        given.setdefault("abs", False)
    return method.attribute(x.clone().requires_grad_(), target=targets, **given).detach(), given.get("baselines", 0)


def _origins(x: Tensor, baselines: Any) -> Tensor | None:
    """Baselines as inputs: one or one an input, or a distribution of them, whose mean counts; None for a function."""
    if isinstance(baselines, tuple) and len(baselines) == 1:
        baselines = baselines[0]
    if isinstance(baselines, int | float):
        return torch.full_like(x[:1], baselines)
    return baselines.to(x) if isinstance(baselines, Tensor) else None


@torch.no_grad()
def _missed(name: str, one: Tensor, net: Classifier, x: Tensor, targets: Tensor, baselines: Any) -> Tensor:
    """|sum of the map − (f(x) − f(baseline))| as a share of the latter, (n,)."""
    if (origins := _origins(x, baselines)) is None:
        return torch.full((len(x),), torch.nan, dtype=torch.float64)
    low = net.logits(origins).cpu().double()
    low = low if len(low) == len(x) and not name.endswith("Shap") else low.mean(0, keepdim=True).expand(len(x), -1)
    whole = (net.logits(x).cpu().double() - low).gather(1, targets.cpu()[:, None])[:, 0]
    return (one.flatten(1).cpu().double().sum(1) - whole).abs() / whole.abs().clamp_min(1e-12)


def _is_input_times_gradient(one: Tensor, net: Classifier, x: Tensor, targets: Tensor, baselines: Any) -> bool:
    if (origins := _origins(x, baselines)) is None:
        return False
    x = x.detach().requires_grad_()
    slope = torch.autograd.grad(net.logits(x).gather(1, targets[:, None]).sum(), x)[0]
    return torch.allclose(one, slope * (x.detach() - origins.mean(0, keepdim=True)), rtol=1e-3, atol=1e-6)


def _tell_gaps(names: tuple[str, ...], gap: Tensor, gradient: Tensor) -> None:
    for j, name in enumerate(names):
        share = median(gap[:, j])
        if name not in _BY_RULE or not share > INCOMPLETE:
            continue
        why = ""
        if name == "IntegratedGradients":
            why = ": take more steps, options={'IntegratedGradients': {'n_steps': 200}}"
        elif gradient[j]:
            why = (
                ": they are input × gradient here, because captum changes the rules of modules and this network calls "
                "its activations as functions: make them modules, nn.ReLU(), each called once"
            )
        elif name.startswith("DeepLift"):
            why = ": captum changes the rules of some modules only, each called once; 'IntegratedGradients' needs none"
        tell(f"the maps of {name} miss {share:.0%} of f(x) − f(baseline) in the median, expected nothing{why}")


def _window(x: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """A square of all channels that is a fourteenth of the image wide, and half of it as the step."""
    channels, *sides = x.shape[1:]
    if not sides:
        return (1,), (1,)
    wide = [max(2, round(side / 14)) if side > 1 else 1 for side in sides]
    return (channels, *wide), (channels, *(max(1, w // 2) for w in wide))


def _passes(name: str, x: Tensor, options: dict[str, Any]) -> float:
    """How many forward passes a method takes at an input, roughly: one back takes as long as two."""
    channels, *sides = x.shape[1:]
    squares = math.prod(max(1, 2 * side // max(2, round(side / 14))) for side in sides if side > 1) or channels
    integral = 3.0 * int(options.get("n_steps", _STEPS))
    known = {"Saliency": 3.0, "InputXGradient": 3.0, "Deconvolution": 3.0, "GuidedBackprop": 3.0, "DeepLift": 9.0}
    known |= {"IntegratedGradients": integral, "Occlusion": float(squares), "FeatureAblation": float(x[0].numel())}
    return known.get(name, 100.0)
