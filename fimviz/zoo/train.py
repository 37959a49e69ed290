"""Train the zoo again: `python -m fimviz.zoo.train [names …] [--out DIR]`, a few minutes on one core.

Writes the weights, `card.json` and the table in `CARD.md`. One machine and one torch version give the same bits
each time; elsewhere the order of floating-point sums differs, and the networks with it, slightly.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fimviz.classifier import Classifier, as_classifier
from fimviz.zoo import digits
from fimviz.zoo.models import architecture, names

HERE = Path(__file__).parent

# 2.4 of the 16 grey levels: enough to turn the networks that were trained as usual, and people still read the digit.
EPSILON = 0.15
TRAIN_STEPS, TEST_STEPS = 5, 20

EPOCHS = 40
BATCH = 64
LEARNING_RATE = 4e-3

TABLE = ("<!-- table: written by train.py from card.json -->", "<!-- end of table -->")


def train(name: str, *, seed: int = 0, epochs: int = EPOCHS) -> nn.Module:
    """Train one network of the zoo on `digits("train")`; the same seed gives the same weights.

    Args:
        name: one of `fimviz.zoo.names()`. With "-robust" the network sees only attacked images (Madry et al.
            2018, "Towards deep learning models resistant to adversarial attacks"), else only clean ones.
        seed: of the initial weights, the order of the images and the attacks' starting points.
        epochs: passes over the 1297 images.

    Returns:
        The network in evaluation mode: the last one, not the best one, so that no test image had a say.
    """
    images, labels = digits("train")
    with _reproducible(seed):
        net = architecture(name)()
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
        batches = -(-len(images) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=batches)
        for epoch in range(epochs):
            # Against the full budget from the start the transformer never gets beyond guessing.
            epsilon = EPSILON * min(1.0, (epoch + 1) / (0.8 * epochs))
            for batch in torch.randperm(len(images)).split(BATCH):
                x, y = images[batch], labels[batch]
                if name.endswith("-robust"):
                    # In evaluation mode, so that the attack's passes leave no trace in the running statistics.
                    x = attack(net.eval(), x, y, epsilon=epsilon, steps=TRAIN_STEPS)
                optimizer.zero_grad()
                cross_entropy(net.train()(x), y).backward()
                optimizer.step()
                schedule.step()
    return net.eval()


def attack(
    net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, epsilon: float = EPSILON, steps: int
) -> Tensor:
    """Images (n, …) of [0, 1] within L∞ distance epsilon of the given ones that raise the cross-entropy of `net`.

    Projected gradient ascent from a random start (`captum.robust.PGD`), with steps of 2.5 epsilon / steps as in
    Madry et al. (2018).
    """
    from captum.robust import PGD

    # One loss for each image: captum leaves pixels with a gradient below 1e-6 alone, and a mean would shrink them.
    pgd = PGD(net, lambda z, y: cross_entropy(z, y, reduction="none"), lower_bound=0.0, upper_bound=1.0)
    with warnings.catch_warnings():
        # captum detaches the images after each step, then warns that they do not require gradients.
        warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
        attacked: Tensor = pgd.perturb(images, epsilon, 2.5 * epsilon / steps, steps, labels, random_start=True)
    return attacked


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
    with _reproducible(seed):
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


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """A random stream of its own and one thread: several would split sums by how many cores there are."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        # torch.manual_seed would also seed the GPUs, which fork_rng does not restore here.
        torch.default_generator.manual_seed(seed)
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


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
    options = parser.parse_args(arguments)
    chosen = options.names or names()
    for name in chosen:
        architecture(name)  # a mistyped last name must not cost the training of the first ones
    (options.out / "weights").mkdir(parents=True, exist_ok=True)
    for name in chosen:
        start = time.perf_counter()
        net = train(name)
        row = {"parameters": sum(p.numel() for p in net.parameters()), **evaluate(net), "seed": 0, "epochs": EPOCHS}
        save_file(net.state_dict(), options.out / "weights" / f"{name}.safetensors")
        _write_card(options.out, {name: row})
        print(f"{name}: {row}, {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
