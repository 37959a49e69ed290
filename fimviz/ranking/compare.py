"""`compare_models`: formulas, estimates and attacks for several models, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from fimviz._options import named_options, real, whole
from fimviz._tell import tell
from fimviz._ways import named
from fimviz.attacks.descent import STEPS, TARGETS
from fimviz.fisher.table import METHODS, by_gradients
from fimviz.model.classifier import Classifier, as_classifier
from fimviz.model.data import unpacked
from fimviz.model.engine.memory import limit
from fimviz.model.engine.parts import Work
from fimviz.model.engine.progress import Stages, wanted
from fimviz.model.failures import known, of_model
from fimviz.ranking.comparison import ModelComparison
from fimviz.ranking.numbers import ModelNumbers, Settings, forecast, model_numbers


@named_options
def compare_models(
    models: Mapping[str, Classifier | nn.Module],
    images: Any,
    labels: Any = None,
    *,
    budget: float = 0.5,
    method: str = "auto",
    local_images: int = 32,
    attack_images: int = 64,
    attack_targets: int = TARGETS,
    attack_steps: int = STEPS,
    max_memory: float | None = None,
    errors: str = "mark",
    seed: int = 0,
    progress: bool | Callable[[int, int], None] = False,
) -> ModelComparison:
    """Closed form, estimate, accuracy, confidence, temperature and attacks for several models, side by side.

    Whether a number ranks models by how easily they are fooled is itself measured: Spearman's ρ with the median of
    the smallest successful attacks, with an interval. With four models that interval is nearly everything.

    Args:
        models: name → `Classifier` of one of K classes, or module from pixels in [0, 1] to logits; two or more.
        images: (n, …) in pixels, the same for all models, or a dictionary name → (n, …) of the same n pictures, for
            models that take other sizes. λ₁, bounds and distances are in the units of the images given: across sizes
            they do not compare. To have them compare, put the resizing into the model,
            `nn.Sequential(nn.Upsample(224), model)`, and give all models the same images.
        labels: true classes (n,).
        budget: L2 length, in pixel units, of the attacks that `attack_success` counts.
        method: how λ₁ is computed, as in `spectrum`: "auto", "exact" or "lanczos".
        local_images: at how many images, the first ones, L4 is computed; λ₁, accuracy, confidence, temperatures and
            radii are of all images.
        attack_images: how many images, the first ones, are attacked.
        attack_targets: toward how many other classes, the likeliest, an attack goes in turn.
        attack_steps: gradients of every attack toward one class; see `fimviz.attacks.descent`.
        max_memory: bytes that it may take beside models and images, by default half of what is free.
        errors: what an image is to do whose logits or gradients are not finite: "mark", no number of that model counts
            it and the frame's column `failure` says so, or "raise".
        seed: of the random start of "lanczos"; nothing else is random.
        progress: True for a tqdm bar, or a function called with (percent of the time, 100).

    λ₁ depends on the logits' scale, which moves no decision boundary: a model that is surer has smaller λ₁ for the
    same attacks. So every model is also compared at the temperature under which the labels at hand are likeliest.
    Images that a model misclassifies are in the medians of λ₁ and not in those of attacks and radii. Where a model
    has no value, as a closed form for a network that cannot be traced, the frame says why. An interrupt returns the
    models that are complete.

    Raises:
        ValueError: fewer than two models, labels that are no class indices, yes/no labels, a bad option.

    Source: the ladder, `fimviz.bounds.ladder`; the temperature, Guo et al. (2017).

    Example, the same model twice, its logits doubled: nothing moves but the scale, and matching it out leaves λ₁ equal.
        >>> import torch, fimviz as fv
        >>> images, labels = fv.zoo.digits()
        >>> net = fv.zoo.load("digits-mlp").model
        >>> twice = fv.Classifier(net, temperature=0.5)
        >>> c = compare_models({"once": net, "twice": twice}, images[:100], labels[:100])
        >>> once, twice = c.rows.values()
        >>> abs(once["smallest_attack"] / twice["smallest_attack"] - 1) < 0.01
        True
        >>> once["spectral_norm"] > 2 * twice["spectral_norm"]
        True
        >>> round(once["matched_spectral_norm"] / twice["matched_spectral_norm"], 4)
        1.0
    """
    if not isinstance(models, Mapping):
        raise TypeError(f"models is a {type(models).__name__}, expected a dictionary name → model")
    if len(models) < 2:
        raise ValueError(f"models holds {len(models)}, expected at least two to compare")
    if not 0 < real("budget", budget) < math.inf:
        raise ValueError(f"budget is {budget}, expected a positive L2 length")
    named("method", method, METHODS, ["auto", *by_gradients(totals=True)])
    settings = Settings(
        method=method,
        local_images=whole("local_images", local_images, 1),
        attack_images=whole("attack_images", attack_images, 1),
        attack_targets=whole("attack_targets", attack_targets, 1),
        attack_steps=whole("attack_steps", attack_steps, 1),
        errors=known(errors),
        seed=whole("seed", seed, 0),
        max_memory=limit(max_memory),
    )
    progress = wanted(progress)
    if isinstance(images, Mapping):
        own = [name for name in models if name in images]
        read = {}
        for name in own:
            with of_model(name):
                read[name] = unpacked(images[name], labels, as_classifier(models[name]))
        images = dict(images) | {name: one for name, (one, _) in read.items()}
        labels = next((found for _, found in read.values() if found is not None), None)
    else:
        images, labels = unpacked(images, labels)
    given = _by_model(models, images)
    stages = [stage for name in models for stage in forecast(len(given[name]), settings)]
    bar, work = Stages(progress, stages), Work(len(models), unit="model")
    done: dict[str, ModelNumbers] = {}
    with work:
        for name, net in models.items():
            with of_model(name):
                done[str(name)] = model_numbers(as_classifier(net), given[name], labels, settings, bar)
            work.reached(len(done))
        bar.end()
    if work.stopped:
        tell(f"{work.stopped}: the comparison holds {len(done)} of {len(models)} models")
    return ModelComparison(models=done, budget=float(budget))


def _by_model(models: Mapping[str, Any], images: Any) -> Mapping[str, Any]:
    if not isinstance(images, Mapping):
        return dict.fromkeys(models, images)
    if missing := [name for name in models if name not in images]:
        raise ValueError(f"images has no entry for {missing[0]!r}, expected one a model: {', '.join(map(str, models))}")
    lengths = {name: len(images[name]) for name in models}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"images hold {lengths}, expected the same pictures, and so as many, for every model")
    return images
