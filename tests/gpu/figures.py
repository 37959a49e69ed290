"""What spectra cost on the device: against their floor, a user's own code, and the machine's own processor.

A setting is a network, a number of classes K and a batch. Where K−1 passes would take minutes, costs with two numbers
of classes are continued in a straight line. All in float32 without TF32, but where said otherwise.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import fimviz as fv
from fimviz.fisher.passes import Linearisation
from tests.benchmarks.floor import floor_batched, floor_loop, floor_vmap, jacrev_gram
from tests.benchmarks.truth import FirstClasses
from tests.gpu.networks import NETWORKS, network
from tests.gpu.runner import Place, Task

Found = dict[str, Any]
_AT_ONCE = (8, 64, 512)  # cotangents at a time that the floor tries: a card wants many
_LONG = 1.0  # seconds


class Clock:
    """Seconds and memory of runs on a device, which have ended when they are counted."""

    def __init__(self, place: Place, budget: float) -> None:
        self.place, self.budget = place, budget

    def seconds(self, run: Callable[[], Any]) -> float:
        """The median of up to five runs after one to warm up; the shorter of two long runs; one that is very long."""
        first = self._once(run)
        if first > _LONG:
            return first if first > 10 * _LONG else min(first, self._once(run))
        times = [self._once(run) for _ in range(min(5, max(1, int(self.budget / 10 / first))))]
        return statistics.median(times)

    def _once(self, run: Callable[[], Any]) -> float:
        self._wait()
        start = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - start

    def _wait(self) -> None:
        if self.place.card:
            torch.cuda.synchronize(self.place.device)

    def peak(self, run: Callable[[], Any]) -> float | None:
        """Gigabytes that a run takes beyond what is there; None on a processor."""
        if not self.place.card:
            run()
            return None
        before = torch.cuda.memory_allocated(self.place.device)
        torch.cuda.reset_peak_memory_stats(self.place.device)
        run()
        return round((torch.cuda.max_memory_allocated(self.place.device) - before) / 1e9, 3)


@contextmanager
def ieee() -> Iterator[None]:
    """Full float32 products, as fimviz takes them: TF32 would be another, shorter computation."""
    owners = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = [owner.fp32_precision for owner in owners]
    for owner in owners:
        owner.fp32_precision = "ieee"
    try:
        yield
    finally:
        for owner, value in zip(owners, before, strict=True):
            owner.fp32_precision = value


def side(name: str, place: Place) -> int:
    """Pixels of an image's side: on a processor networks that take any size get small ones."""
    pixels = NETWORKS[name][1]
    return pixels if place.card or name == "ViT-B/16" else min(pixels, 32 if place.quick else 64)


def cost(clock: Clock, net: nn.Module, classes: int, forward: float, run: Callable[[nn.Module], Any]) -> float | None:
    """Seconds of `run` on a network with all classes; from two smaller numbers where that takes too long."""
    if 3 * classes * forward <= clock.budget or classes <= 16:
        return clock.seconds(lambda: run(net))
    part = int(max(8, min(classes // 4, clock.budget / 3 / forward)))
    small, large = FirstClasses(net, part // 4 + 1), FirstClasses(net, part + 1)
    clock.seconds(lambda: run(FirstClasses(net, 3)))  # a library's first use must not count as a class's cost
    few, some = clock.seconds(lambda: run(small)), clock.seconds(lambda: run(large))
    # Where a busy machine has made the smaller number the slower one, nothing is known.
    return few + (some - few) * (classes - 1 - part // 4) / (part - part // 4) if some > few else None


def tried(run: Callable[[], Any]) -> Any:
    """What it gives, or None where the memory does not suffice."""
    try:
        return run()
    except torch.OutOfMemoryError:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def setting(place: Place, name: str, classes: int, batch: int) -> Found:
    """Seconds of a forward pass, of the floor, of a user's own code and of fimviz, and what fimviz takes."""
    net, clock = (
        network(name, classes).to(place.device),
        Clock(place, 0.5 if not place.card else 2.0 if place.quick else 5.0),
    )
    x = torch.rand(batch, 3, side(name, place), side(name, place), device=place.device)
    found: Found = {"network": name, "K": classes, "batch": batch}
    with torch.no_grad():
        found["forward, TF32"] = clock.seconds(lambda: net(x))
        with ieee():
            found["forward"] = forward = clock.seconds(lambda: net(x))

    def passes(run: Callable[..., Any], *more: Any) -> float | None:
        return tried(lambda: cost(clock, net, classes, forward, lambda n: run(n, x, *more)))

    with ieee():
        floors = {"loop": passes(floor_loop)}
        for at_once in (64,) if place.card and place.quick else _AT_ONCE if place.card else _AT_ONCE[:1]:
            if at_once < 16 * classes:
                floors[f"vmap {at_once}"] = passes(floor_vmap, at_once)
                if not place.quick:
                    floors[f"batched {at_once}"] = passes(floor_batched, at_once)
        found["floors"] = floors
        known = {how: seconds for how, seconds in floors.items() if seconds is not None}
        found["floor"], found["floor by"] = min((seconds, how) for how, seconds in known.items())
        found["vmap(jacrev) + Gram"] = passes(jacrev_gram, min(64, classes))

    @functools.cache
    def seen(n: nn.Module) -> fv.Classifier:
        classifier = fv.Classifier(n)
        classifier.admit(x[:2])  # what is asked once of a model
        return classifier

    def spectrum(n: nn.Module, **options: Any) -> fv.Spectrum:
        return fv.spectrum(seen(n), x, k=1, vectors=False, **options)

    for method in ("exact", "lanczos") if classes > 30 else ("exact",):
        for verify in (False, True):
            run, what = functools.partial(spectrum, method=method, verify=verify), f"{method}{', verified' * verify}"
            found |= spent(clock, net, classes, forward, run, what)
    if classes > 30:
        s = tried(lambda: spectrum(net, method="lanczos", verify=False))
        found["lanczos: its passes"] = None if s is None else tried(lambda: replayed(clock, seen(net), x, s))
    return found


def spent(
    clock: Clock, net: nn.Module, classes: int, forward: float, run: Callable[[nn.Module], Any], what: str
) -> Found:
    """Seconds, memory and where the time goes; the latter two of a few classes where there are too many for all."""
    whole = what.startswith("lanczos") or classes <= 16
    few = net if whole else FirstClasses(net, 17)
    return {
        what: tried(lambda: clock.seconds(lambda: run(net)) if whole else cost(clock, net, classes, forward, run)),
        f"{what}: GB": tried(lambda: clock.peak(lambda: run(few))),
        f"{what}: time": tried(lambda: shares(clock, lambda: run(few))),
    }


def replayed(clock: Clock, net: fv.Classifier, x: Tensor, s: fv.Spectrum) -> float:
    """Seconds of the passes that a spectrum took, with nothing between them: what Lanczos cannot do without."""
    vjps, jvps = int(s.cost.vjps.max()), int(s.cost.jvps.max())

    def run() -> None:
        with net.at_rest():
            here = Linearisation(net, x, along=True)
            c, v = torch.randn(len(x), len(net.classes), 1).to(x), torch.randn(len(x), x[0].numel()).to(x)
            for step in range(max(vjps, jvps)):
                if step < vjps:
                    here.vjp(c)
                if step < jvps:
                    here.jvp(v)

    return clock.seconds(run)


def shares(clock: Clock, run: Callable[[], Any]) -> Found:
    """Where the time of a run goes: kernels and transfers on the card, the class-space eigenproblem on the processor.

    What is left is dispatch and waiting. The profiler slows what runs on the processor, so that the whole is timed
    without it.
    """
    seconds = clock.seconds(run)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if clock.place.card else [])
    with profile(activities=activities) as profiled:
        run()
    kernels = transfers = eigen = 0.0
    for event in profiled.key_averages():
        if event.device_type != torch.autograd.DeviceType.CPU:
            if event.key.startswith(("Memcpy", "Memset")):
                transfers += event.self_device_time_total / 1e6
            else:
                kernels += event.self_device_time_total / 1e6
        elif event.key in ("aten::_linalg_eigh", "aten::linalg_eigh", "aten::linalg_eigvalsh"):
            eigen = max(eigen, event.cpu_time_total / 1e6)
    found = {"seconds": seconds, "eigenproblem": eigen / seconds}
    if clock.place.card:
        found |= {"kernels": kernels / seconds, "transfers": transfers / seconds}
        found["dispatch and waiting"] = max(0.0, 1 - sum(found[k] for k in ("eigenproblem", "kernels", "transfers")))
    return found


def float64(place: Place, name: str, batch: int) -> Found:
    """A forward pass and a VJP in float64, in those of float32."""
    net, clock = network(name, 10).to(place.device), Clock(place, 5.0)
    x = torch.rand(batch, 3, side(name, place), side(name, place), device=place.device)
    found: Found = {"network": name, "batch": batch}
    two = FirstClasses(net, 3)
    with ieee():
        for dtype in (torch.float32, torch.float64):
            net.to(dtype)
            with torch.no_grad():
                found[f"forward {dtype}"] = clock.seconds(lambda: net(x.to(net_dtype(net))))
            found[f"forward + 2 VJPs {dtype}"] = clock.seconds(lambda: floor_loop(two, x.to(net_dtype(net))))
    classifier = fv.Classifier(net.float())
    with classifier.at_rest():
        classifier.admit(x[:2])
        beneath = clock.seconds(lambda: Linearisation(classifier, x, precise=True))
    return found | {"float64 beneath float32": beneath}


def net_dtype(net: nn.Module) -> torch.dtype:
    return next(net.parameters()).dtype


def class_space(place: Place, rank: int, batch: int) -> Found:
    """The eigenproblem of class space in float64: on the card, and on the processor with the way there."""
    clock = Clock(place, 5.0)
    a = torch.randn(batch, rank, rank + 8, dtype=torch.float64, device=place.device)
    gram = a @ a.mT
    threads = torch.get_num_threads()
    found: Found = {"rank": rank, "batch": batch}
    for count in sorted({1, _cores()}):
        torch.set_num_threads(count)
        found[f"processor, {count} threads"] = clock.seconds(lambda: torch.linalg.eigh(gram.cpu()))
    torch.set_num_threads(threads)
    if place.card:
        found["card"] = tried(lambda: clock.seconds(lambda: torch.linalg.eigh(gram)))
    return found


def processor(place: Place, name: str, classes: int, batch: int) -> Found:
    """Images a second on the device, and on all cores of the machine's own processor."""
    found: Found = {"network": name, "K": classes, "batch": batch, "cores": _cores()}
    threads, pixels = torch.get_num_threads(), side(name, place)
    options = {"k": 1, "vectors": False, "method": "exact" if classes <= 30 else "lanczos"}
    for device, count in ((place.device, batch), ("cpu", max(1, batch // 8))):
        clock = Clock(place, 5.0)
        net = fv.Classifier(network(name, classes).to(device))
        x = torch.rand(count, 3, pixels, pixels)
        net.admit(x[:2])
        torch.set_num_threads(_cores() if device == "cpu" else threads)
        what = "own processor" if device == "cpu" else "device"
        for verify in (False, True):
            seconds = clock.seconds(lambda v=verify, n=net, x=x: fv.spectrum(n, x, verify=v, **options))
            found[f"{what}{', verified' if verify else ''}: images/s"] = count / seconds
    torch.set_num_threads(threads)
    return found


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def figures(place: Place) -> list[Task]:
    """All of them, the most wanted first."""
    if not place.card:
        wanted = [("ResNet-20", 10, 2), ("ResNet-18", 40, 1)]
        if not place.quick:
            wanted = [(name, k, 1) for name in NETWORKS for k in (10, 1000)]
        extra = [_task(class_space, 99, 4), _task(float64, "ResNet-20", 4), _task(processor, "ResNet-20", 10, 2)]
        return [*(_task(setting, *one) for one in wanted), *extra]
    first = [_task(setting, "ResNet-50", 10, 32), _task(setting, "ResNet-50", 1000, 32)]
    first += [_task(processor, "ResNet-50", 10, 64), _task(setting, "ResNet-20", 10, 256)]
    first += [_task(float64, name, 32) for name in NETWORKS]
    first += [_task(setting, "ViT-B/16", 1000, 32), _task(setting, "MobileNetV2", 1000, 32)]
    first += [_task(setting, "ResNet-18", 100, 32), _task(processor, "ResNet-50", 1000, 32)]
    first += [_task(class_space, rank, batch) for rank, batch in ((9, 256), (99, 32), (999, 1), (999, 8), (24, 256))]
    rest = [_task(setting, name, k, batch) for batch in (32, 1, 256) for k in (10, 1000, 100) for name in NETWORKS]
    known = {task.name for task in first}
    return first + [task for task in rest if task.name not in known]


def _task(what: Callable[..., Found], *of: Any) -> Task:
    name = f"{what.__name__.replace('_', ' ')} {' '.join(map(str, of))}"
    return Task(name, "figures", functools.partial(_on, what, of), 90.0)


def _on(what: Callable[..., Found], of: tuple[Any, ...], place: Place) -> Found:
    return what(place, *of)
