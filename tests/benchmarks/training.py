"""The training experiments of the third source paper on handwritten digits: python -m tests.benchmarks.training.

Trains 9 networks for the curves (standard, Madry and TRADES, three seeds each, with a `FisherMonitor`) and 8 more for
the capacity table, some twenty minutes on one core, attacks all of them, and writes docs/training.md,
docs/training-curves.csv, docs/robust-samples.csv and docs/capacity.csv. What is trained is kept in --keep, so that an
interrupted study goes on where it ended.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from scipy.stats import mannwhitneyu
from torch import nn

import fimviz as fv
from fimviz.attacks import pgd
from fimviz.training import TrainingHistory, read_log
from fimviz.zoo.models import VGG, ResNet
from fimviz.zoo.recipes import ATTACK_STEPS, BATCH, EPSILON, LEARNING_RATE, RECIPES, SMOOTHNESS, fit

SEEDS = 0, 1, 2
CAPACITY_SEEDS = SEEDS[:2]
EPOCHS = 20
STEPS = 20  # of the attacks that measure
CURVES: Callable[[], nn.Module] = VGG
# As in the paper's table, where they are VGG13 and ResNets for CIFAR-10.
CAPACITY: dict[str, Callable[[], nn.Module]] = {
    "vgg-pure-linear": partial(VGG, activation=nn.Identity, pool=nn.AvgPool2d),
    "vgg-half-linear": partial(VGG, activation=nn.Identity),
    "vgg": VGG,
    "resnet-narrow": partial(ResNet, 4),
    "resnet-wide": partial(ResNet, 32),
}


@dataclass(frozen=True)
class Study:
    """How much to do and where to keep what is trained."""

    keep: Path
    epochs: int = EPOCHS
    seeds: tuple[int, ...] = SEEDS
    capacity_seeds: tuple[int, ...] = CAPACITY_SEEDS
    steps: int = STEPS
    images: int = 500

    def network(self, name: str, build: Callable[[], nn.Module], recipe: str, seed: int) -> fv.Classifier:
        """The network trained so, or taken from where it is kept."""
        place = self.keep / f"{name}-{recipe}-{seed}.safetensors"
        if not place.exists():
            watched = name == "vgg"
            watch = self.watch(recipe, seed) if watched else None
            # The whole budget from the start, as in the papers.
            net = fit(build, recipe, seed=seed, epochs=self.epochs, warmup=0, watch=watch)
            save_file(net.state_dict(), place)
            print(place.stem, flush=True)
        net = build().eval()
        net.load_state_dict(load_file(place))
        return fv.Classifier(net)

    def watch(self, recipe: str, seed: int) -> Callable[[nn.Module], fv.FisherMonitor]:
        """Makes the monitor of one run; a run that was interrupted starts again."""
        images, labels = fv.zoo.digits("test")
        log = self.log(recipe, seed)
        log.unlink(missing_ok=True)
        each = -(-len(fv.zoo.digits("train").images) // BATCH)
        probe = {"images": images[: self.images], "labels": labels[: self.images], "every": each, "log": log}
        return lambda net: fv.FisherMonitor(net, name=f"{recipe} {seed}", **probe)

    def log(self, recipe: str, seed: int) -> Path:
        """Where the monitor of a run writes."""
        return self.keep / f"{recipe}-{seed}.jsonl"


def curves(study: Study) -> pd.DataFrame:
    """One row a recipe, seed and epoch: what the monitor recorded on the test images."""
    parts = []
    for recipe in RECIPES:
        for seed in study.seeds:
            study.network("vgg", CURVES, recipe, seed)
            history: TrainingHistory = read_log(study.log(recipe, seed))
            frame = history.frame.drop(columns=["run", "forwards", "vjps", "note"])
            parts.append(frame.assign(recipe=recipe, seed=seed, epoch=range(len(frame))))
    first = ["recipe", "seed", "epoch", "step"]
    return pd.concat(parts)[lambda f: first + [c for c in f if c not in first]]


def below(frame: pd.DataFrame, recipe: str) -> list[tuple[int, int, int]]:
    """In each seed: at how many epochs after the first ‖F‖_F lies below standard training's, of how many; last ratio.

    After the first epoch the usual networks have learnt nothing yet, and F is near 0.
    """
    wide = frame.pivot_table(index=["seed", "epoch"], columns="recipe", values="mean_frobenius")
    wide = wide[wide.index.get_level_values("epoch") > 1]
    out = []
    for _, one in wide.groupby("seed"):
        out.append((int((one[recipe] < one.standard).sum()), len(one), float((one.standard / one[recipe]).iloc[-1])))
    return out


def attacked(study: Study, net: fv.Classifier, loss: str, seed: int) -> torch.Tensor:
    """Which test images are right, and still are under the attack."""
    images, labels = (t[: study.images] for t in fv.zoo.digits("test"))
    moved = pgd(net, images, labels, EPSILON, norm="linf", steps=study.steps, loss=loss, seed=seed)
    moved = getattr(moved, "images", moved)
    return (net(images).argmax(1) == labels) & (net(moved).argmax(1) == labels)


def robust_samples(study: Study) -> pd.DataFrame:
    """Median ‖F‖_F of the test images that are right and stay right under PGD, and of those that turn."""
    images, labels = (t[: study.images] for t in fv.zoo.digits("test"))
    rows = []
    for recipe in RECIPES:
        for seed in study.seeds:
            net = study.network("vgg", CURVES, recipe, seed)
            found = fv.spectrum(net, images, labels=labels, vectors=False, verify=False)
            stays, right = attacked(study, net, "ce", seed), found.correct
            norm, doubt = found.frobenius.numpy(), found.doubt.numpy()
            robust, turned = stays.numpy(), (right & ~stays).numpy()
            rows.append(
                {
                    "recipe": recipe,
                    "seed": seed,
                    "robust": int(robust.sum()),
                    "turned": int(turned.sum()),
                    "median_frobenius_robust": _median(norm[robust]),
                    "median_frobenius_turned": _median(norm[turned]),
                }
                | dict(zip(("auc", "low", "high", "p_value"), ranked(norm[turned], norm[robust]), strict=True))
                | {"auc_of_doubt": ranked(doubt[turned], doubt[robust], resamples=1)[0]}
            )
    return pd.DataFrame(rows)


def ranked(turned: np.ndarray, robust: np.ndarray, resamples: int = 1000) -> tuple[float, float, float, float]:
    """How often a turned sample has the larger value than a robust one, its 95 % bootstrap interval, and p.

    The first is Mann and Whitney's U over the number of pairs (one half: no difference); p is two-sided.
    """
    if not len(turned) or not len(robust):
        return (float("nan"),) * 4
    pairs = len(turned) * len(robust)
    test = mannwhitneyu(turned, robust)
    rng = np.random.default_rng(0)
    draws = [
        mannwhitneyu(rng.choice(turned, len(turned)), rng.choice(robust, len(robust)), method="asymptotic").statistic
        for _ in range(resamples)
    ]
    low, high = np.quantile(np.array(draws) / pairs, [0.025, 0.975])
    return test.statistic / pairs, low, high, test.pvalue


def capacity(study: Study) -> pd.DataFrame:
    """Networks of growing capacity after TRADES: accuracy, clean, under PGD and under PGD on the CW margin; CCKL."""
    images, labels = (t[: study.images] for t in fv.zoo.digits("test"))
    rows = []
    for name, build in CAPACITY.items():
        for seed in study.capacity_seeds:
            net = study.network(name, build, "trades", seed)
            found = fv.spectrum(net, images, labels=labels, vectors=False, verify=False)
            apart = fv.cckl(net, images, labels)
            rows.append(
                {
                    "network": name,
                    "parameters": sum(p.numel() for p in net.model.parameters()),
                    "seed": seed,
                    "clean": found.correct.double().mean().item(),
                    "pgd": attacked(study, net, "ce", seed).double().mean().item(),
                    "cw": attacked(study, net, "cw", seed).double().mean().item(),
                    "mean_frobenius": found.frobenius.mean().item(),
                    "confidence": found.confidence.mean().item(),
                    "cckl": apart.cckl,
                    "g1": apart.means["g1"].value,
                    "g2": apart.means["g2"].value,
                    "median_ratio": apart.summary.loc["ratio", "median"],
                }
            )
    return pd.DataFrame(rows)


def page(command: str, study: Study, lines: pd.DataFrame, samples: pd.DataFrame, table: pd.DataFrame) -> str:
    """docs/training.md: settings, then what became of each claim of the paper."""
    ends = lines[lines.epoch == lines.epoch.max()].groupby("recipe", sort=False)
    kept = ["accuracy", "confidence", "cckl", "mean_frobenius", "median_spectral_norm", "mean_trace"]
    curve = [[recipe, *(_spread(one[name]) for name in kept)] for recipe, one in ends]
    claims = []
    for recipe in ("madry", "trades"):
        found = below(lines, recipe)
        lower = sum(share == epochs for share, epochs, _ in found)
        shares = ", ".join(f"{share} of {epochs}" for share, epochs, _ in found)
        ratios = ", ".join(f"{last:.2g}" for *_, last in found)
        claims.append(
            f"* {recipe}: mean ‖F‖_F lies below standard training's at every epoch from the second on in "
            f"{lower} of {len(found)} seeds (epochs below: {shares}); at the end it is smaller by factors of {ratios}."
        )
    capacities = [
        [name, one.parameters.iloc[0], *(_spread(one[c]) for c in ("clean", "pgd", "cw", "mean_frobenius"))]
        for name, one in table.groupby("network", sort=False)
    ]
    parts = [
        [name, *(_spread(one[c]) for c in ("confidence", "cckl", "g1", "g2", "median_ratio"))]
        for name, one in table.groupby("network", sort=False)
    ]
    ranks = [
        [
            *(r.recipe, r.seed, r.robust, r.turned),
            *(f"{median:.3g}" for median in (r.median_frobenius_robust, r.median_frobenius_turned)),
            f"{r.auc:.3f} ({r.low:.3f} to {r.high:.3f})",
            f"{r.p_value:.1g}",
            f"{r.auc_of_doubt:.3f}",
        ]
        for r in samples.itertuples()
    ]
    rank_head = ["recipe", "seed", "robust", "turned", "median, robust", "median, turned", "AUC of ‖F‖_F", "p"]
    return f"""# Training and the Fisher information

Made by `{command}`: handwritten digits, 1297 images for training and the
{study.images} test images for every number below; AdamW with a one-cycle learning rate of {LEARNING_RATE:g}, batches
of {BATCH}, {study.epochs} epochs, seeds {", ".join(map(str, study.seeds))}, torch {torch.__version__}. Madry trains on
attacked images alone; TRADES adds 1/λ = {SMOOTHNESS:g} times KL(p(x) ‖ p(x′)). Both attack by
{ATTACK_STEPS} steps of PGD from a random start within L∞ ε = {EPSILON} (pixels run from 0 to 1, so 2.4 of 16 grey
levels), the whole budget from the first epoch. The attacks that measure are `fimviz.attacks.pgd` with {study.steps}
steps of 2.5 ε/{study.steps}: PGD on the log-odds against the label, and CW, which is the same ascent on the margin of
the logits, as in the paper. Accuracy under an attack is an upper bound of the robust accuracy.

Figures over seeds are the mean and, in brackets, the smallest and the largest. ‖F‖_F, λ₁ and trace are in nats per
squared pixel unit, CCKL in nats.

## Curves: normal against adversarial training

The network is the zoo's VGG; the paper's figure has VGG13 on CIFAR-10. At the last epoch:

{_table(["recipe", "accuracy", "confidence", "CCKL", "mean ‖F‖_F", "median λ₁", "mean trace"], curve)}

{chr(10).join(claims)}

The first epoch is left out of the count: usual training has hardly begun there, and F of TRADES lies above it. All
epochs are in [training-curves.csv](training-curves.csv). The mean is made by the images on which a model is not
sure; the *median* λ₁ follows confidence rather than robustness, and a comparison of medians can have another sign.

## ‖F‖_F at samples that withstand PGD and at those that do not

Of the test images that the network gets right: those that it still gets right under PGD (robust) and those that turn.
AUC is how often a turned sample has the larger ‖F‖_F, one half where there is no difference, with its 95 % bootstrap
interval; p is Mann and Whitney's. The last column is the AUC of 1 − confidence alone, which costs no gradient.

{_table([*rank_head, "of 1 − confidence"], ranks)}

{told(samples)}
The numbers are in [robust-samples.csv](robust-samples.csv).

## Capacity

All trained by TRADES, with the seeds {" and ".join(map(str, study.capacity_seeds))}. "Pure linear" has no ReLU and
average pooling, "half linear" no ReLU and max pooling; the narrow ResNet begins with 4 channels, the wide one with 32.
The paper's table has VGG13, and ResNets of different depths too.

{_table(["network", "parameters", "accuracy", "under PGD", "under CW", "mean ‖F‖_F"], capacities)}

{ordered(table, ACCURACIES)}
The seeds are in [capacity.csv](capacity.csv). More capacity also means a larger network here, as in
the paper, except for the three VGGs, which have the same number of parameters.

CCKL of the same networks over all pairs of test images of different classes, in its second-order part G1 and the rest
G2 (`fimviz.cckl`): means, and the median of G2/KL. The paper's figure 5 has two ResNets.

{_table(["network", "confidence", "CCKL", "G1", "G2", "median G2/KL"], parts)}

{ordered(table, PARTS)}
"""


def told(samples: pd.DataFrame) -> str:
    """What became of the claim about robust samples, in words."""
    more, better = (samples.low > 0.5).sum(), (samples.auc > samples.auc_of_doubt).sum()
    return (
        f"In {more} of {len(samples)} networks the interval lies above one half: ‖F‖_F is smaller at robust samples. "
        f"In {better} of {len(samples)} it tells them from the others better than confidence alone does."
    )


ACCURACIES = {"clean": "accuracy", "pgd": "accuracy under PGD", "cw": "accuracy under CW"}
PARTS = {"cckl": "CCKL", "g2": "G2", "median_ratio": "median G2/KL"}


def ordered(table: pd.DataFrame, columns: dict[str, str]) -> str:
    """What became of a claim about capacity, in words."""
    parts = []
    for column, name in columns.items():
        wide = table.pivot(index="seed", columns="network", values=column)
        vgg = (wide["vgg-pure-linear"] < wide["vgg-half-linear"]) & (wide["vgg-half-linear"] < wide["vgg"])
        resnet = wide["resnet-narrow"] < wide["resnet-wide"]
        parts.append(f"{name} rises in {vgg.sum()} and {resnet.sum()} of {len(wide)} seeds")
    return f"From pure linear to half linear to normal, and from narrow to wide: {', '.join(parts)}."


def _table(head: list[str], rows: list[list[object]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _spread(values: pd.Series) -> str:
    return f"{values.mean():.3g} ({values.min():.3g}–{values.max():.3g})"


def _median(values: np.ndarray) -> float:
    return float(np.median(values)) if len(values) else float("nan")


def main() -> None:
    """Run the study and store it."""
    command = "python -m tests.benchmarks.training"
    parser = argparse.ArgumentParser(prog=command, description=__doc__)
    parser.add_argument("--keep", type=Path, help="where networks and logs are kept, to go on after an interruption")
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[2] / "docs")
    options = parser.parse_args()
    keep = options.keep or Path(tempfile.mkdtemp(prefix="fimviz-training-"))
    keep.mkdir(parents=True, exist_ok=True)
    print(f"networks and logs are kept in {keep}: to go on after an interruption, {command} --keep {keep}", flush=True)
    study = Study(keep)
    torch.set_num_threads(1)
    lines, samples, table = curves(study), robust_samples(study), capacity(study)
    for name, frame in (("training-curves", lines), ("robust-samples", samples), ("capacity", table)):
        with (options.out / f"{name}.csv").open("w", encoding="utf-8") as file:
            file.write(f"# {command}; settings and units: training.md\n")
            frame.to_csv(file, index=False, float_format="%.5g")
    (options.out / "training.md").write_text(page(command, study, lines, samples, table), encoding="utf-8")


if __name__ == "__main__":
    main()
