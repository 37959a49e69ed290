"""How much memory a computation may take."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import torch

from fimviz._options import real

_UNKNOWN = 2 * 2**30  # where the system does not say


def budget(device: torch.device) -> int:
    """Bytes that a computation may allocate on a device: half of what is free now."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return (free + idle) // 2
    return min(_system_free(), _container_free()) // 2


def _system_free() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        pages = os.sysconf("SC_AVPHYS_PAGES") if "SC_AVPHYS_PAGES" in getattr(os, "sysconf_names", {}) else 0
        return pages * os.sysconf("SC_PAGE_SIZE") if pages > 0 else _UNKNOWN


def _container_free() -> int:
    """What a container's limit leaves: /proc/meminfo shows the host's memory, not the limit."""
    group = Path("/sys/fs/cgroup")
    try:
        return int((group / "memory.max").read_text()) - int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return 2**62


def limit(max_memory: Any) -> float | None:
    """The option `max_memory`."""
    if max_memory is not None and not real("max_memory", max_memory) > 0:
        raise ValueError(f"max_memory is {max_memory}, expected a number of bytes, for instance 2e9")
    return None if max_memory is None else float(max_memory)


def enough(need: float, device: torch.device, max_memory: float | None, what: str, mend: str) -> float:
    """The bytes that may be taken, by default the budget of the device.

    Raises:
        MemoryError: they are less than `need`, which is for `what`; `mend` is what helps beside more of them.
    """
    room = budget(device) if max_memory is None else max_memory
    if need > room:
        raise MemoryError(
            f"at least {readable(need)} are needed, for {what}, and {readable(room)} may be taken: give a larger "
            f"max_memory= or {mend}"
        )
    return room


def readable(size: float) -> str:
    """Bytes in the unit that a person would take: 940 B, 1.5 kB, 38 GB."""
    power = min(int(math.log10(max(size, 1)) / 3), 3)
    return f"{size / 1000**power:.3g} {('B', 'kB', 'MB', 'GB')[power]}"
