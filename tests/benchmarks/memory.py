"""How much more memory a spectrum takes at its peak: python -m tests.benchmarks.memory METHOD BYTES IMAGES PIXELS.

A process of its own, because a peak cannot be taken back. Prints the growth in bytes over what the process held with
the model and the images loaded and one small spectrum made.
"""

import subprocess
import sys
from pathlib import Path

import torch
import torchvision

import fimviz as fv


def main(method: str, room: float, count: int, pixels: int) -> int:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = fv.Classifier(torchvision.models.resnet18(num_classes=10))
    x = torch.rand(count, 3, pixels, pixels)
    fv.spectrum(net, x[:2, :, :32, :32].contiguous(), k=1, method=method)  # loads and settles what any use would
    before = _held("VmRSS")
    fv.spectrum(net, x, k=2, method=method, max_steps=4, max_memory=room)
    return _held("VmHWM") - before


def _held(what: str) -> int:
    """Bytes that this process holds (VmRSS) or held at most (VmHWM); getrusage's peak begins with the parent's."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(what)))


def measured(method: str, room: float, count: int, pixels: int) -> int:
    """The same from another process, in a new one."""
    command = [sys.executable, "-m", "tests.benchmarks.memory", method, str(room), str(count), str(pixels)]
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


if __name__ == "__main__":
    print(main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
