"""A real Chromium, offline, for the views. The system's: Playwright's own download is not needed."""

import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("no Chromium on this machine; on Debian: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(chromium):
    """Open a file without any network; a console error or a request that leaves the machine fails the test."""
    contexts, complaints = [], []

    def open_file(path, wait=".fv-slider", **options):
        context = chromium.new_context(**{"offline": True, "viewport": {"width": 1200, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: complaints.append(str(e)))
        page.on("request", lambda r: complaints.append(r.url) if r.url.startswith("http") else None)
        page.goto(path.as_uri())
        if wait:
            page.wait_for_selector(wait)
        return page

    yield open_file
    for context in contexts:
        context.close()
    assert complaints == []
