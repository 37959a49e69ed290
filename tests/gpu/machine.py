"""What a run ran on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

from tests.gpu.runner import Place


def machine(place: Place) -> dict[str, str]:
    """Card, driver, versions, date: what a figure means nothing without."""
    known = {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "device": place.device,
        "quick": str(place.quick),
        "commit": _said("git", "rev-parse", "--short", "HEAD") or "unknown",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "cpu": f"{_cpu()}, {len(os.sched_getaffinity(0))} cores",
    }
    if place.card:
        card = torch.cuda.get_device_properties(place.device)
        known |= {
            "card": f"{card.name}, {card.total_memory / 1e9:.0f} GB, {card.multi_processor_count} multiprocessors",
            "driver": _said("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").split("\n")[0]
            or "unknown",
            "CUDA": str(torch.version.cuda),
            "cuDNN": str(torch.backends.cudnn.version()),
        }
    return known


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def _cpu() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
