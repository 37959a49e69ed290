"""One network of each kind, through all that docs/compatibility.md says of it; and the table itself."""

import time

import pytest

from tests.compatibility import __main__ as table
from tests.compatibility.measure import COLUMNS, cells
from tests.compatibility.networks import NETWORKS, SAMPLE


@pytest.mark.parametrize("name", SAMPLE)
def test_a_network_of_each_kind(name):
    columns = COLUMNS
    if NETWORKS[name].kind in ("timm", "transformers"):  # half of what they would take
        pytest.importorskip(NETWORKS[name].kind)
        columns = ("exact", "bounds", "certificate")
    row = dict(cells(NETWORKS[name], columns))
    assert set(row) == {"unit", *columns}
    assert not [cell for cell in row.values() if cell["verdict"] in ("wrong", "failed")]
    refused = {column for column, cell in row.items() if cell["verdict"] == "refused"}
    assert refused == {"quantised": set(COLUMNS), "recurrent (LSTM)": {"bounds", "certificate"},
                       "transformers/ConvNextV2": {"certificate"}}.get(name, set())  # fmt: skip


def test_a_wrong_number_is_found_out(monkeypatch):
    from tests.compatibility import measure

    truth = measure._truth
    monkeypatch.setattr(measure, "_truth", lambda *given: 1.001 * truth(*given))
    monkeypatch.setattr(measure.bounds, "local_bound", lambda net, x: measure.bounds.LocalBound(
        None, x.new_full((1,), -9.0), None, None, "", ()))  # fmt: skip
    row = dict(cells(NETWORKS["tabular"]))
    assert {column for column, cell in row.items() if cell["verdict"] == "wrong"} == {"exact", "lanczos", "bounds"}


def test_a_process_that_takes_too_long_or_ends_keeps_what_it_gave(monkeypatch):
    def some(network, columns=COLUMNS):
        yield "unit", {"verdict": "works", "words": "1 ms", "forwards": 1.0}
        if network.name == "tabular":
            raise SystemExit(3)
        yield from iter(lambda: time.sleep(60), None)

    monkeypatch.setattr(table, "cells", some)
    for name, why in (("tabular", "its process ended with 3"), ("one-dimensional", "it took longer than 1 s")):
        row = table.measured(name, 1)
        assert row["unit"]["words"] == "1 ms"
        assert {row[column]["words"] for column in COLUMNS} == {why}


def test_the_table_says_what_is_known():
    works = {"verdict": "works", "words": "1e-07", "forwards": 12.3, "seconds": 0.1}
    lost = {"verdict": "refused", "words": "why | not", "forwards": None}
    text = table.table({"tabular": {"unit": works, **dict.fromkeys(COLUMNS, works), "bounds": lost}})
    assert "| tabular | 20 | 1e-07 | 1e-07 · 12.3 | 1e-07 · 12.3 | refused (1) |" in text
    assert "1. why \\| not" in text
    assert "Of 1 networks work: 1 exact, 1 lanczos, 0 bounds" in text
