"""Real images and trained networks to take along: they live beside the repository, a bare machine has them not.

`python -m tests.gpu --pack` fills .gpu-pack/, which git ignores; where it is absent, checks make do with the zoo.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parents[2]
DATA, PACK = ROOT.parent / "shared" / "data", ROOT / ".gpu-pack"
LIMIT = 30_000_000
WEIGHTS = ("cifar10-resnet20", "cifar10-resnet4b-robust", "mnist-lenet5-robust", "imagenet-squeezenet")
_IMAGES = 64


def fill() -> str:
    """Fill the folder anew; what it holds."""
    if not (DATA / "realdata.py").exists():
        sys.exit(f"the folder of real images and networks, {DATA}, is absent: nothing to pack")
    data = _module(DATA)
    shutil.rmtree(PACK, ignore_errors=True)
    PACK.mkdir()
    for name in ("realdata.py", *(data.NETWORKS[net][1] for net in WEIGHTS)):
        shutil.copy(DATA / name, PACK / name)
    photographs = data.imagenet_samples()[0][:8]
    sets = {name: data.images(name, _IMAGES)[0] for name in ("cifar10-test", "mnist-test")}
    arrays = {name: (255 * x).round().byte().numpy() for name, x in (sets | {"photographs": photographs}).items()}
    np.savez_compressed(PACK / "images.npz", **arrays)
    size = sum(file.stat().st_size for file in PACK.iterdir())
    if size > LIMIT:
        sys.exit(f"{PACK} holds {size / 1e6:.1f} MB, expected at most {LIMIT / 1e6:.0f}: pack less")
    return f"{PACK}: {size / 1e6:.1f} MB"


def real(name: str, count: int) -> tuple[nn.Module, Tensor] | None:
    """A trained network from pixels to logits and the first images for it; None where nothing was packed."""
    if not (PACK / "images.npz").exists():
        return None
    data = _module(PACK)
    with np.load(PACK / "images.npz") as arrays:
        x = torch.tensor(arrays[data.NETWORKS[name][4] or "photographs"][:count]).float() / 255
    return data.network(name), x


def _module(folder: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("realdata", folder / "realdata.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
