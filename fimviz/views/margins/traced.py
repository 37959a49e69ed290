"""What the margin view's page needs of paths, as JSON values and arrays of a payload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from fimviz.margins.state import fallbacks
from fimviz.views.kit.inputs import Inputs, finite, short

if TYPE_CHECKING:
    from fimviz.margins.shielding import Shielding
    from fimviz.margins.traces import MarginTraces

FRAMES = (3, 40)  # images on the way of one path, at least and at most
_CLASSES_SHOWN = 5  # beside the path's own and "others", where there are more than eight


def occurring(traces: MarginTraces) -> tuple[list[int], list[int]]:
    """Rows and columns of the path matrix: every class up to sixteen, else those that occur; −1 is no change."""
    count = len(traces.net.classes)
    unchanged = [-1] if not traces.flipped.all() else []
    if count <= 16:
        return list(range(count)), [*range(count), *unchanged]
    met = traces.hit[traces.flipped].unique().tolist()
    return traces.source.unique().tolist(), [*met, *unchanged]


def matrix(traces: MarginTraces, rows: list[int], columns: list[int]) -> dict[str, list[list[int]]]:
    """How many paths lead from a source to the class met, and how many of these aimed elsewhere."""
    counts, shielded = (torch.zeros(len(rows), len(columns), dtype=torch.long) for _ in range(2))
    for source, target, hit in zip(traces.source.tolist(), traces.target.tolist(), traces.hit.tolist(), strict=True):
        place = rows.index(source), columns.index(hit)
        counts[place] += 1
        shielded[place] += hit not in (-1, target)
    return {"counts": counts.tolist(), "shielded": shielded.tolist()}


def counted(traces: MarginTraces) -> dict[str, int]:
    """Paths that met a class in the share of shielded ones, and all paths of wrongly classified samples beside it."""
    shielded = traces.flipped & (traces.hit != traces.target)
    right = torch.ones(len(traces), dtype=torch.bool) if traces.correct is None else traces.correct
    counts = (right & traces.flipped, right & shielded, ~right, ~right & shielded)
    return dict(zip(("paths", "shielded", "left", "leftShielded"), (int(c.sum()) for c in counts), strict=True))


def sample_data(traces: MarginTraces, inputs: Inputs, i: int) -> dict[str, Any]:
    """A sample, what the model says of it, and how many paths start there."""
    p = traces.probabilities[i]
    said = int(p.argmax())
    rest = float(torch.cat([p[:said], p[said + 1 :]]).sum())
    return {
        "index": i,
        "prediction": said,
        "doubt": rest,
        "label": None if traces.labels is None else int(traces.labels[i]),
        "traced": int((traces.sample == i).sum()),
        "image": inputs.encode(traces.images[i]),
    }


def trace_data(traces: MarginTraces, i: int, inputs: Inputs, frames: int) -> dict[str, Any]:
    """A path with at most so many images on its way."""
    path, settings = traces.paths[i], traces.settings
    steps = len(path.pace)
    classes, p = _top_classes(traces, i)
    x = traces.images[int(traces.sample[i])]
    if path.shares is None:
        kept, differences = [0, steps], [traces.ends[i].double() - x.double()]
    else:
        kept = sorted({round(j) for j in np.linspace(0, steps, min(frames, steps) + 1)})
        differences = [path.difference(j) for j in kept[1:]]
    if not steps:
        kept, differences = [0], []
    scale = max((inputs.scale_of(d) for d in differences), default=0.0)
    encoded = [inputs.encode_signed(d, scale) for d in differences]
    return {
        "id": i,
        "sample": int(traces.sample[i]),
        "source": int(traces.source[i]),
        "target": int(traces.target[i]),
        "hit": int(traces.hit[i]),
        "status": traces.status[i],
        "length": float(traces.length[i]),
        "error": finite(traces.length_error[i]),
        "verified": settings.verify and settings.method != "published",
        "retried": bool(traces.retried[i]),
        "tried": settings.retry and bool(fallbacks(traces.made_by[i])),
        "bound": float(traces.bound[i]),
        "distance": float(traces.distance[i]),
        "l2": float(traces.l2[i]),
        "settings": {
            "method": traces.made_by[i].method,
            "step": settings.step,
            "damping": traces.made_by[i].damping,
            "trust_region": settings.trust_region,
        },
        "shown": classes,
        "p": [short(row, 6) for row in p],
        "fr": path.fr.tolist(),
        "gap": short(path.gap, 5),
        "norm": short(path.spectral_norm, 5),
        "natural": short(path.natural, 5),
        "step": short(path.l2, 5),
        "pace": list(path.pace),
        "smoothed": list(path.smoothed),
        "kept": kept,
        "blended": path.shares is None and steps > 1,
        "scale": scale,
        "limit": encoded[-1]["limit"] if encoded else 0.0,
        "beyond": encoded[-1]["beyond"] if encoded else 0.0,
        "frames": [f["map"] for f in encoded],
    }


def made_with(trace: dict[str, Any]) -> dict[str, Any]:
    """What a path was asked for with."""
    settings = {name: trace["settings"][name] for name in ("step", "damping", "trust_region")}
    return {"sample": trace["sample"], "target": trace["target"], **settings}


def _top_classes(traces: MarginTraces, i: int) -> tuple[list[int], Tensor]:
    """The classes to draw with their probabilities (c, T + 1); the class −1 stands for all others together."""
    p = traces.paths[i].probabilities.T
    if len(p) <= 8:
        return list(range(len(p))), p
    own = {int(t[i]) for t in (traces.source, traces.target, traces.hit)} - {-1}
    top = own | set(p.amax(1).topk(_CLASSES_SHOWN).indices.tolist())
    kept = sorted(top)
    rest = [c for c in range(len(p)) if c not in top]
    return [*kept, -1], torch.cat([p[kept], p[rest].sum(0, keepdim=True)])


def point(shielding: Shielding) -> dict[str, Any]:
    """One point of the curve of shielding against damping."""
    s = shielding.settings
    return {
        "damping": s.damping,
        "step": s.step,
        "shielded": finite(shielding.shielded.value),
        "low": finite(shielding.shielded.low),
        "high": finite(shielding.shielded.high),
        "possible": list(shielding.possible),
        "successful": shielding.successful,
        "attempted": shielding.attempted,
    }
