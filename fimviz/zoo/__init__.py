"""The embedded default: handwritten digits and eleven small networks for them, photographs and a network for these.

Nothing is downloaded. Five architectures for digits, each trained as usual and once more against attacks (`-robust`),
and `digits-lipschitz`, whose Lipschitz constant is built in; EfficientNet-Lite0 for photographs, with the extra
`fimviz[photos]`. `CARD.md` beside this file says how they were made, how accurate they are and what they are not for.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from fimviz._options import named_options
from fimviz.model.classifier import Classifier
from fimviz.zoo.models import architecture, names
from fimviz.zoo.photos import NAME, lite0, photographs

__all__ = ["digits", "load", "names", "photographs"]


class Digits(NamedTuple):
    """Images (n, 1, 8, 8), float32 in [0, 1], and their labels (n,), int64 in 0 … 9."""

    images: Tensor
    labels: Tensor


@named_options
def digits(split: str = "test") -> Digits:
    """Handwritten digits of 8×8 pixels that come with scikit-learn, split once and for all.

    Args:
        split: "train" (1297 images, which the zoo's networks have seen) or "test" (500, which they have not).
            The two are disjoint, have the classes in equal proportions and are in a fixed shuffled order, so
            that the first few images are a fair sample.

    Returns:
        Images (n, 1, 8, 8), float32 in [0, 1] (0 is paper, 1 is ink, in steps of 1/16), and labels (n,), int64.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, doi:10.24432/C50P49: its 1797 test images, as in `sklearn.datasets.load_digits`.

    Example:
        >>> import fimviz as fv
        >>> images, labels = fv.zoo.digits()
        >>> images.shape, labels[:10].tolist()
        (torch.Size([500, 1, 8, 8]), [4, 8, 8, 3, 9, 0, 6, 3, 9, 8])
    """
    if split not in ("train", "test"):
        raise ValueError(f"split is {split!r}, expected 'train' or 'test'")
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels, labels, test_size=500, random_state=0, stratify=labels)
    x, y = parts[split == "test" :: 2]
    return Digits(torch.tensor(x / 16, dtype=torch.float32).view(-1, 1, 8, 8), torch.tensor(y, dtype=torch.int64))


@named_options
def load(name: str) -> Classifier:
    """A trained network for the images of `digits` or of `photographs`, ready for every function of fimviz.

    Args:
        name: "digits-" and one of mlp, vgg, resnet, densenet, vit; with "-robust" at the end, the same
            architecture trained against attacks (Madry et al. 2018). Or "digits-lipschitz", of orthogonal layers,
            whose norms lose nothing (Anil et al. 2019). `names()` lists these eleven. Or "photo-lite0",
            EfficientNet-Lite0 (Liu 2020) with its weights for ImageNet, out of the extra `fimviz[photos]`.

    Returns:
        A `Classifier` on the CPU from pixels in [0, 1] to the classes "0" … "9", or to ImageNet's 1000, then with
        `prepare` for pictures of any size; `.model` is the torch module, in evaluation mode, and `.model.to(device)`
        moves it.

    Raises:
        ValueError: an unknown name, with the nearest valid one; a file of weights that is not the published one.
        ImportError: the extra `fimviz[photos]` is absent.

    Example:
        >>> import fimviz as fv
        >>> net = fv.zoo.load("digits-resnet")
        >>> images, labels = fv.zoo.digits()
        >>> bool((net(images).argmax(1) == labels).float().mean() > 0.98)
        True
    """
    from safetensors.torch import load_file

    if name == NAME:
        return lite0()
    build = architecture(name)
    # The initial weights are drawn and thrown away; the caller's random stream stays where it was. (The meta device
    # would draw nothing, but its first use imports a second's worth of torch.)
    with torch.random.fork_rng(devices=[]):
        model = build()
    model.load_state_dict(load_file(Path(__file__).parent / "weights" / f"{name}.safetensors"), assign=True)
    return Classifier(model.eval(), classes=[str(digit) for digit in range(10)])
