"""What the playground draws before anybody has drawn: see `fimviz.views.kit.shown`. All else its page computes."""

from __future__ import annotations

from collections.abc import Iterator

from fimviz.views.kit.shown import Page, Row, cell, rows


def numbers(page: Page) -> Iterator[Row]:
    """The dots of the gauges: λ₁ of each sample for each network."""
    for network in page.data["networks"]:
        name = f"λ₁ of {network['name']}" if network["name"] else "λ₁"
        for i, norm in enumerate(network["norms"]):
            yield from rows("gauge", f"sample {i}", {name: cell(norm)})
