"""What the README shows is so: the pictures that it embeds are turned as it says, and its page stands alone."""

import re
from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import fimviz as fv

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_photograph_is_turned_by_what_nobody_sees():
    drawing = (ROOT / "docs" / "photograph.svg").read_text(encoding="utf-8")
    embedded = [BytesIO(b64decode(found)) for found in re.findall('base64,([^"]+)', drawing)]
    before, after, _ = (np.asarray(Image.open(file).convert("RGB")) / 255 for file in embedded)
    net = fv.zoo.load("photo-lite0")
    x = torch.tensor(np.stack([before, after]), dtype=torch.float32).permute(0, 3, 1, 2)
    with torch.no_grad():
        best = net.model(net.normalised(x)).softmax(1).max(1)
    said = re.search("<title>(.+), (.+) %; after a change that nobody sees: (.+), (.+) %</title>", drawing).groups()
    assert said[::2] == tuple(net.classes[k] for k in best.indices)
    assert said[0] != said[2]
    torch.testing.assert_close(100 * best.values, torch.tensor([float(p) for p in said[1::2]]), rtol=0, atol=1.0)
    most = re.search(r"≤ (\d+) of 255 levels", drawing)[1]
    assert np.abs(255 * (after - before)).max().round() == int(most) <= 8


def test_pictures_and_page_are_small_and_stand_alone():
    shown = re.findall(r"\]\((docs/[^)]+\.(?:svg|png|html))\)", README)
    assert {"docs/photograph.svg", "docs/photographs.html"} <= set(shown)
    for name in shown:
        assert (ROOT / name).stat().st_size < 1_000_000, name
        if name.endswith(("svg", "html")):
            text = (ROOT / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            assert not re.search(r"https?://|@import|<link|src=\"[^d]", text), name
