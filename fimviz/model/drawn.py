"""Random numbers from generators of one's own where other people's code draws from the process's.

captum draws from torch's default generator. To seed that, also if it is put back afterwards, would repeat or skip what
another thread draws meanwhile, as a training loop does beside a live view.
"""

from __future__ import annotations

from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_NEW = "bernoulli", "multinomial", "normal", "rand", "randint", "randn", "randperm"
_IN_PLACE = "bernoulli_", "exponential_", "normal_", "random_", "uniform_"
_DRAWING = {*(getattr(torch, name) for name in _NEW), *(getattr(Tensor, name) for name in _IN_PLACE)}


class Drawn(TorchFunctionMode):
    """Inside, on this thread, torch's functions that draw take their numbers from generators of this seed.

    Args:
        seed: of the generators, one a device.
        numpy: whether NumPy's old global generator is seeded too, and put back afterwards: it is the process's, and
            nothing else can be done for code that draws from it.
    """

    def __init__(self, seed: int, numpy: bool = False) -> None:
        super().__init__()
        self._seed, self._numpy = seed, numpy
        self._before: Any = None
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        draws = func in _DRAWING or "generator" in kwargs  # as in torch.nn.init
        if draws and kwargs.get("generator") is None:
            held = [a.device for a in (*args, *kwargs.values()) if isinstance(a, Tensor)]
            device = torch.device(kwargs.get("device") or (held[0] if held else "cpu"))
            if device not in self._generators:
                self._generators[device] = torch.Generator(device).manual_seed(self._seed)
            kwargs = kwargs | {"generator": self._generators[device]}
        return func(*args, **kwargs)

    def __enter__(self) -> Drawn:
        if self._numpy:
            self._before = np.random.get_state()
            np.random.seed(self._seed % 2**32)
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        if self._numpy:
            np.random.set_state(self._before)
