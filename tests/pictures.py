"""The README's pictures and its page, made anew: python -m tests.pictures [photograph.svg …] writes into docs/."""

import argparse
import shutil
import tempfile
from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

import fimviz as fv

DOCS = Path(__file__).parents[1] / "docs"
NAME, SIZE = "camera", 0.75  # the photograph, and how far it moves, in L2
GAIN = 32  # of what is added to it
FRAMES, SECONDS = 25, 9
START, END = 0.17, 0.6  # shares of a turn, between which it moves; then it rests, and the next turn begins
SIDE, GAP, TOP, LABEL = 272, 24, 52, 92

STYLE = """
:root { --text: #1f2328; --quiet: #59636e; --card: #fff; --line: #d1d9e0; --before: #1976d2; --after: #d1380c }
@media (prefers-color-scheme: dark) {
  :root { --text: #e6edf3; --quiet: #9198a1; --card: #0d1117; --line: #3d444d; --before: #64b5f6; --after: #ff8a5c }
}
text { font: 14px system-ui, -apple-system, "Segoe UI", sans-serif; fill: var(--text) }
.title { font-weight: 600 } .quiet { fill: var(--quiet) } .end { text-anchor: end }
.answer { font-size: 22px; font-weight: 600 }
.card { fill: var(--card); stroke: var(--line) } .track { fill: var(--line); opacity: 0.5 }
.before { fill: var(--before) } .after { fill: var(--after) } .others { fill: var(--quiet) }
.moves { animation-duration: %(seconds)ss; animation-iteration-count: infinite; animation-timing-function: linear }
.frame { opacity: 0; animation: %(seconds)ss step-end infinite } .frame:last-child { opacity: 1 }
@media (prefers-reduced-motion: reduce) { .moves, .frame { animation: none !important } }
"""


def photograph(target):
    """One photograph that moves along its worst direction, in 8-bit pictures: what is shown is what the network saw."""
    images, names = fv.zoo.photographs()
    net = fv.zoo.load("photo-lite0")
    x = images[names.index(NAME)]
    step = SIZE * fv.spectrum(net, x[None], k=1).eigenvectors[0, 0]
    before = answers(net, [x]).argmax().item()
    # v and −v are the same direction: the way on which the answer falls
    step = min((step, -step), key=lambda way: answers(net, [as_saved(x + way)])[0, before].item())
    frames = [as_saved(x + share * step) for share in torch.linspace(0, 1, FRAMES)]
    says = answers(net, frames)
    after = says[-1].argmax().item()
    if after == before:
        raise SystemExit(f"{NAME} stays {net.classes[after]}: choose another photograph or a larger SIZE")
    shares = torch.cat([says[:, [before, after]], 1 - says[:, [before, after]].sum(1, keepdim=True)], 1)
    labels = [net.classes[before], net.classes[after], f"{len(net.classes) - 2} others"]
    target.write_text(drawing(frames[0], frames[-1], shares.tolist(), labels), encoding="utf-8")


def as_saved(image):
    return (255 * image.clamp(0, 1)).round() / 255


@torch.no_grad()
def answers(net, images):
    return torch.cat([net(image[None]).exp() for image in images])


def drawing(image, moved, shares, labels):
    """The SVG: the moved picture lies over the other, its opacity is the share of the step; so with what is added."""
    photo, same, added = (GAP + column * (SIDE + GAP) for column in range(3))
    under = TOP + SIDE + 36
    width, height = added + SIDE + GAP, under + 30 + 24 * 2 + GAP
    levels = 255 * (moved - image).abs()
    place = f'y="{TOP}" width="{SIDE}" height="{SIDE}"'
    marks = [
        f'<rect class="card" x="0.5" y="0.5" width="{width - 1}" height="{height - 1}" rx="8"/>',
        text(photo, TOP - 16, "a photograph", "title"),
        f'<image id="photograph" x="{photo}" {place} href="{embedded(image)}"/>',
        text(same, TOP - 16, "the same, moved", "title"),
        f'<use href="#photograph" x="{same - photo}"/>',
        f'<image class="moves step" x="{same}" {place} href="{embedded(moved)}"/>',
        text(added, TOP - 16, f"what was added, ×{GAIN}", "title"),
        f'<rect x="{added}" {place} fill="#808080"/>',
        f'<image class="moves step" x="{added}" {place} href="{embedded(0.5 + GAIN * (moved - image))}"/>',
        answer(photo, under, shares[0], labels),
        text(added, under, f"≤ {levels.max():.0f} of 255 levels", "answer"),
        text(added, under + 30, f"in each of the {image.numel():,} values;", "quiet"),
        text(added, under + 54, f"{levels.square().mean().sqrt():.1f} is the root mean square", "quiet"),
    ]
    still, full = "opacity: 0", "opacity: 1"
    rules = [moving("step", [(0, still), (START, still), (END, full), (1, full)])]
    times = [START + (END - START) * i / (FRAMES - 1) for i in range(FRAMES)]
    for row, kind in enumerate(("before", "after", "others")):
        y = under + 30 + 24 * row
        bar = f'width="{SIDE - LABEL}" height="12"'
        sizes = [f"transform: scaleX({share[row]:.4f})" for share in shares]
        rules.append(moving(kind, [(0, sizes[0]), *zip(times, sizes, strict=True), (1, sizes[-1])]))
        for x, share, moves in ((photo, shares[0], ""), (same, shares[-1], " moves")):
            marks += [
                text(x, y, labels[row], "quiet"),
                f'<g transform="translate({x + LABEL} {y - 11})"><rect class="track" {bar}/>',
                f'<rect class="{kind}{moves}" {bar} transform="scale({share[row]:.4f} 1)"/></g>',
            ]
    marks.append("<g>")
    for i, share in enumerate(shares):
        until = times[i + 1] if i < FRAMES - 1 else 1
        rules.append(moving(f"at{i}", [(0, still if i else full), (times[i] if i else 0, full), (until, still)]))
        size = text(same + SIDE, TOP - 16, f"ε = {SIZE * i / (FRAMES - 1):.2f}", "quiet end")
        marks.append(f'<g class="frame at{i}">{size}{answer(same, under, share, labels)}</g>')
    said = f"{answered(shares[0], labels)}; after a change that nobody sees: {answered(shares[-1], labels)}"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" role="img">',
            f"<title>{said}</title>",
            f"<style>{STYLE % {'seconds': SECONDS}}{''.join(rules)}</style>",
            *marks,
            "</g>\n</svg>\n",
        ]
    )


def answered(share, labels):
    first = max((0, 1), key=lambda row: share[row])
    return f"{labels[first]}, {100 * share[first]:.0f} %"


def answer(x, y, share, labels):
    return text(x, y, answered(share, labels), f"answer {'before' if share[0] >= share[1] else 'after'}")


def text(x, y, content, kind):
    return f'<text x="{x}" y="{y}" class="{kind}">{content}</text>'


def moving(name, stops):
    """A rule for what has the class `name` and moves: what holds from which share of a turn on."""
    steps = " ".join(f"{100 * share:.2f}% {{ {rule} }}" for share, rule in stops)
    return f".{name}:is(.moves, .frame) {{ animation-name: {name} }} @keyframes {name} {{ {steps} }}\n"


def embedded(image):
    """The address of a PNG, which loses nothing, with the picture in it; grey where it is grey."""
    pixels = as_saved(image).mul(255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    grey = np.ptp(pixels, axis=2).max() == 0
    file = BytesIO()
    Image.fromarray(pixels[..., 0] if grey else pixels).save(file, "PNG", optimize=True)
    return "data:image/png;base64," + b64encode(file.getvalue()).decode()


def photographs(target):
    """The photographs and their worst directions, as a page that needs no kernel."""
    fv.spectrum(fv.zoo.load("photo-lite0"), fv.zoo.photographs().images, k=1).save(target)


def explorer(target, width=1200):
    """The explorer over digits, as the README calls it."""
    images, labels = fv.zoo.digits()
    found = fv.explore(fv.zoo.load("digits-resnet"), images[:64], labels[:64])
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        browser = p.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(
            viewport={"width": width, "height": 1000}, device_scale_factor=1.5, color_scheme="light"
        )
        page.goto(found.save(Path(folder) / "explorer.html").as_uri())
        page.wait_for_selector(".fv-batch")
        page.locator(".fimviz").screenshot(path=target)
        browser.close()


MADE = {"photograph.svg": photograph, "photographs.html": photographs, "explorer.png": explorer}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.pictures", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"default: {', '.join(MADE)}")
    for name in parser.parse_args().names or MADE:
        MADE[name](DOCS / name)
