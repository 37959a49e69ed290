"""Three ways to train a small network on the digits: as usual, against attacks (Madry), or smoothly (TRADES)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, kl_div, nll_loss

from fimviz.zoo import digits

# 2.4 of the 16 grey levels: enough to turn the networks that were trained as usual, and people still read the digit.
EPSILON = 0.15
ATTACK_STEPS = 5
SMOOTHNESS = 5.0  # 1/λ of TRADES, as in Zhang et al. (2019) and in the paper that is repeated with it

WARMUP = 0.8  # against the full budget from the start the transformer never gets beyond guessing
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 4e-3

Loss = Callable[[nn.Module, Tensor, Tensor, float], Tensor]
Watch = Callable[[nn.Module], Callable[..., object]]


def standard(net: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy on the images as they are."""
    return cross_entropy(net.train()(images), labels)


def madry(net: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy on attacked images alone (Madry et al. 2018, "Towards deep learning models resistant …")."""
    # In evaluation mode, so that the attack's passes leave no trace in the running statistics.
    images = attack(net.eval(), images, labels, epsilon=epsilon, steps=ATTACK_STEPS)
    return cross_entropy(net.train()(images), labels)


def trades(net: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
    """Cross-entropy on the images + 5 KL(p(x) ‖ p(x′)) with x′ the attack that makes the KL large.

    Zhang et al. (2019), "Theoretically principled trade-off between robustness and accuracy". Against the model's own
    probabilities the cross-entropy is KL but for a constant, so that the attack is the same as Madry's.
    """
    with torch.no_grad():
        own = net.eval()(images).softmax(1)
    moved = attack(net, images, own, epsilon=epsilon, steps=ATTACK_STEPS)
    net.train()
    log_p, log_q = net(images).log_softmax(1), net(moved).log_softmax(1)
    return nll_loss(log_p, labels) + SMOOTHNESS * kl_div(log_q, log_p, log_target=True, reduction="batchmean")


RECIPES: dict[str, Loss] = {"standard": standard, "madry": madry, "trades": trades}


def fit(
    build: Callable[[], nn.Module],
    recipe: str,
    *,
    seed: int = 0,
    epochs: int = EPOCHS,
    epsilon: float = EPSILON,
    warmup: float = WARMUP,
    watch: Watch | None = None,
) -> nn.Module:
    """Train a new network on `digits("train")`; the same seed gives the same weights.

    Args:
        build: makes the network, from pixels (n, 1, 8, 8) in [0, 1] to logits (n, 10).
        recipe: "standard", "madry" or "trades".
        seed: of the initial weights, the order of the images and the attacks' starting points.
        epochs: passes over the 1297 images, in batches of 64.
        epsilon: L∞ budget of the attacks, in pixel units.
        warmup: over which share of the epochs the budget grows to epsilon; 0 for the whole from the start.
        watch: called once with the new network; what it returns is called as `monitor(step)` before the first step
            and as `monitor(step, loss=loss)` after each, as `fimviz.FisherMonitor` wants it.

    Returns:
        The network in evaluation mode: the last one, not the best one, so that no test image had a say.
    """
    if recipe not in RECIPES:
        (nearest,) = get_close_matches(str(recipe), RECIPES, n=1, cutoff=0)
        raise ValueError(f"there is no recipe {recipe!r}: did you mean {nearest!r}? There are {', '.join(RECIPES)}")
    images, labels = digits("train")
    with reproducible(seed):
        net = build()
        monitor = watch(net) if watch else lambda step, loss=None: None
        optimizer = torch.optim.AdamW(net.parameters(), LEARNING_RATE)
        batches = -(-len(images) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, epochs=epochs, steps_per_epoch=batches)
        monitor(step := 0)
        for epoch in range(epochs):
            budget = epsilon * min(1.0, (epoch + 1) / max(1.0, warmup * epochs))
            for batch in torch.randperm(len(images)).split(BATCH):
                loss = RECIPES[recipe](net, images[batch], labels[batch], budget)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                monitor(step := step + 1, loss=loss)
    return net.eval()


def attack(
    net: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor, *, epsilon: float = EPSILON, steps: int
) -> Tensor:
    """Images (n, …) of [0, 1] within L∞ distance epsilon of the given ones that raise the cross-entropy of `net`.

    Projected gradient ascent from a random start (`captum.robust.PGD`), with steps of 2.5 epsilon / steps as in
    Madry et al. (2018). The labels are classes (n,) or probabilities (n, K).
    """
    from captum.robust import PGD

    # One loss for each image: captum leaves pixels with a gradient below 1e-6 alone, and a mean would shrink them.
    pgd = PGD(net, lambda z, y: cross_entropy(z, y, reduction="none"), lower_bound=0.0, upper_bound=1.0)
    with warnings.catch_warnings():
        # captum detaches the images after each step, then warns that they do not require gradients.
        warnings.filterwarnings("ignore", "Input Tensor 0 did not already require gradients")
        attacked: Tensor = pgd.perturb(images, epsilon, 2.5 * epsilon / steps, steps, labels, random_start=True)
    return attacked


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
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
