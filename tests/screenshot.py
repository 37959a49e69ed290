"""The README's picture, the explorer as its five lines show it: python -m tests.screenshot docs/explorer.png"""

import shutil
import sys
import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

import fimviz as fv


def shoot(target, width=1200):
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


if __name__ == "__main__":
    shoot(sys.argv[1])
