"""Frames a second of the perturbation view while ε moves: python -m tests.benchmarks.frames.

Prints the frame rate that requestAnimationFrame reached over three seconds of a moving slider, and the script time
of one step, for one image of 224×224×3 in headless Chromium.
"""

import shutil
import tempfile
from pathlib import Path

import torch
from playwright.sync_api import sync_playwright

import fimviz as fv

MOVE = """() => new Promise(done => {
  const range = document.querySelector('input[type=range]');
  const reach = Number(range.max), start = performance.now();
  let frames = 0, busy = 0;
  const step = now => {
    const t = now - start, before = performance.now();
    range.value = reach * Math.sin(t / 400);
    range.dispatchEvent(new Event('input', { bubbles: true }));
    busy += performance.now() - before;
    frames++;
    t < 3000 ? requestAnimationFrame(step) : done([1000 * frames / t, busy / frames]);
  };
  requestAnimationFrame(step);
})"""


def main():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 224 * 224, 10))
    spectrum = fv.spectrum(model, torch.rand(2, 3, 224, 224), k=5)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as p:
        page_file = spectrum.save(Path(folder) / "view.html")
        browser = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.goto(page_file.as_uri())
        page.wait_for_selector(".fv-prob svg")
        rate, busy = page.evaluate(MOVE)
        print(f"224×224×3: {rate:.1f} frames a second, {busy:.2f} ms of script a step")


if __name__ == "__main__":
    main()
