"""Pages of a network that does not react, and of a batch of which one image cannot be computed, in a real browser."""

import pytest
import torch
from torch import nn

import fimviz as fv
from tests.test_failures import PerImage


def constant():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    nn.init.zeros_(net[1].weight)
    return net


PAGES = {
    "spectrum": lambda net, x, y: fv.spectrum(net, x, labels=y),
    "explore": lambda net, x, y: fv.explore(net, x, y),
    "bounds": lambda net, x, y: fv.compare_bounds(net, x, methods=["exact", "L1", "L5", "lower-pair"]),
    "vulnerability": lambda net, x, y: fv.vulnerability(net, x, y, attacks=["fgsm"], halvings=1),
    "attributions": lambda net, x, y: fv.attributions(net, x, methods=["Saliency"]),
    "models": lambda net, x, y: fv.compare_models({"a": net, "b": net}, x, y, attack_steps=2),
}


@pytest.mark.parametrize("name", PAGES)
def test_nothing_reacts(name, open_page, tmp_path):
    x = torch.rand(4, 1, 8, 8)
    result = PAGES[name](constant(), x, torch.arange(4) % 3)
    page = open_page(result.save(tmp_path / "page.html"), wait=".fv-title")
    page.wait_for_timeout(300)
    title = page.locator(".fv-title").first.inner_text()
    assert "NaN" not in page.locator(".fimviz").last.inner_text()
    if name in ("spectrum", "explore"):
        assert "react at all" in title


@pytest.mark.parametrize("name", ["spectrum", "explore", "bounds", "vulnerability"])
def test_the_lost_are_named_at_the_top(name, open_page, tmp_path):
    torch.manual_seed(0)
    x = torch.rand(5, 1, 8, 8)
    x[3] = 0
    result = PAGES[name](PerImage().eval(), x, torch.arange(5) % 3)
    page = open_page(result.save(tmp_path / "page.html"), wait=".fv-lost")
    assert (
        page.locator(".fv-lost").inner_text() == "Not computed: sample 3: the logits are not finite (NaN or infinite)."
    )
    assert "NaN" not in page.locator(".fimviz").last.inner_text().replace("(NaN or infinite)", "")
    if name in ("spectrum", "explore"):
        gone, chosen = page.locator(".fv-gone"), page.locator(".fv-gallery [aria-selected=true]")
        assert "the logits are not finite" in gone.get_attribute("title")
        before = chosen.get_attribute("title")
        gone.click(force=True)  # it is disabled
        assert chosen.get_attribute("title") == before
