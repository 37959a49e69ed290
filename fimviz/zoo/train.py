"""Train the zoo again: `python -m fimviz.zoo.train [names …] [--out DIR]`, a few minutes on one core.

Writes the weights, `card.json` and the table in `CARD.md`. With `--recipe standard`, `madry` or `trades`, and a
`--seed`, it trains other networks of the same architectures, and writes their weights alone. One machine and one torch
version give the same bits each time; elsewhere the order of floating-point sums differs, and the networks with it,
slightly.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from fimviz.model.classifier import Classifier, as_classifier
from fimviz.zoo import digits
from fimviz.zoo.lipschitz import Lipschitz, constrained, plain
from fimviz.zoo.models import ARCHITECTURES, architecture, names
from fimviz.zoo.recipes import EPOCHS, EPSILON, RECIPES, Watch, attack, fit, reproducible

HERE = Path(__file__).parent
TEST_STEPS = 20

TABLE = ("<!-- table: written by train.py from card.json -->", "<!-- end of table -->")


def train(
    name: str, *, recipe: str | None = None, seed: int = 0, epochs: int = EPOCHS, watch: Watch | None = None
) -> nn.Module:
    """Train one network of the zoo on `digits("train")`; the same seed gives the same weights.

    Args:
        name: one of `fimviz.zoo.names()`.
        recipe: "standard", "madry" or "trades", see `fimviz.zoo.recipes`; by default the name's own: "madry" where it
            ends in "-robust", else "standard".
        seed: of the initial weights, the order of the images and the attacks' starting points.
        epochs: passes over the 1297 images.
        watch: makes a monitor of the new network, see `fimviz.zoo.recipes.fit`.

    Returns:
        The network in evaluation mode: the last one, not the best one, so that no test image had a say.
    """
    build = architecture(name)
    recipe = recipe or ("madry" if name.endswith("-robust") else "standard")
    if build is Lipschitz:
        return plain(fit(constrained, recipe, seed=seed, epochs=epochs, watch=watch))
    return fit(build, recipe, seed=seed, epochs=epochs, watch=watch)


def evaluate(net: Classifier | nn.Module, *, epsilon: float = EPSILON, seed: int = 0) -> dict[str, float]:
    """Accuracy of `net` on the 500 images of `digits("test")`, as they are and under attack.

    Args:
        net: pixels (n, 1, 8, 8) in [0, 1] to ten logits, on the CPU.
        epsilon: L∞ budget of the attack, in pixel units.
        seed: of the attack's starting points.

    Returns:
        `clean_accuracy` and `pgd_accuracy`, both in [0, 1]; the latter after 20 steps of `attack`. It is an upper
        bound on the robust accuracy: a stronger attack may turn more images.
    """
    net = as_classifier(net)
    images, labels = digits("test")
    with reproducible(seed):
        attacked = attack(net, images, labels, epsilon=epsilon, steps=TEST_STEPS)
    right = {"clean_accuracy": net(images).argmax(1) == labels, "pgd_accuracy": net(attacked).argmax(1) == labels}
    return {key: round(value.double().mean().item(), 3) for key, value in right.items()}


def table(card: dict[str, Any]) -> str:
    """The rows of `card.json` as a Markdown table."""
    lines = ["| network | parameters | clean accuracy | accuracy under PGD |", "|---|---:|---:|---:|"]
    for name, row in card["networks"].items():
        accuracies = f"{row['clean_accuracy']:.3f} | {row['pgd_accuracy']:.3f}"
        lines.append(f"| `{name}` | {row['parameters']} | {accuracies} |")
    return "\n".join(lines)


def _write_card(out: Path, rows: dict[str, dict[str, Any]]) -> None:
    path = out / "card.json"
    known = json.loads(path.read_text())["networks"] if path.exists() else {}
    card = {
        "data": "Optical Recognition of Handwritten Digits, Alpaydin & Kaynak 1998, doi:10.24432/C50P49, "
        "as in sklearn.datasets.load_digits; 1297 images for training, 500 for testing",
        "attack": {"method": "captum.robust.PGD", "norm": "Linf", "epsilon": EPSILON, "steps": TEST_STEPS, "seed": 0},
        "torch": torch.__version__,
        "networks": {name: row for name in names() if (row := rows.get(name) or known.get(name))},
    }
    path.write_text(json.dumps(card, indent=2) + "\n")
    before, rest = (HERE / "CARD.md").read_text().split(TABLE[0])
    after = rest.split(TABLE[1])[1]
    (out / "CARD.md").write_text(f"{before}{TABLE[0]}\n{table(card)}\n{TABLE[1]}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train, evaluate and save the named networks, or all of them."""
    from safetensors.torch import save_file

    parser = argparse.ArgumentParser(prog="python -m fimviz.zoo.train", description="Train the networks of the zoo.")
    parser.add_argument("names", nargs="*", help=f"default: all of {', '.join(names())}")
    parser.add_argument("--out", type=Path, default=HERE, help="where weights/, card.json and CARD.md go")
    parser.add_argument("--recipe", choices=RECIPES, help="train so, and write --out/NAME-RECIPE-SEED.safetensors only")
    parser.add_argument("--seed", type=int, help="with --recipe, default: 0")
    options = parser.parse_args(arguments)
    chosen = options.names or (list(ARCHITECTURES) if options.recipe else names())
    for name in chosen:
        architecture(name)  # a mistyped last name must not cost the training of the first ones
    if options.recipe and (options.out == HERE or any(name not in ARCHITECTURES for name in chosen)):
        parser.error(f"--recipe needs --out, and names without -robust: {', '.join(ARCHITECTURES)}")
    if options.seed is not None and not options.recipe:
        parser.error("--seed needs --recipe: the networks of the zoo have seed 0")
    (options.out if options.recipe else options.out / "weights").mkdir(parents=True, exist_ok=True)
    for name in chosen:
        start = time.perf_counter()
        seed = options.seed or 0
        net = train(name, recipe=options.recipe, seed=seed)
        row = {"parameters": sum(p.numel() for p in net.parameters()), **evaluate(net), "seed": seed, "epochs": EPOCHS}
        if options.recipe:
            save_file(net.state_dict(), options.out / f"{name}-{options.recipe}-{seed}.safetensors")
        else:
            save_file(net.state_dict(), options.out / "weights" / f"{name}.safetensors")
            _write_card(options.out, {name: row})
        print(f"{name}: {row}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
