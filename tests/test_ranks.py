"""Ranks with ties and infinities, their correlation, and resamples of clusters."""

import numpy as np
import pytest

from fimviz._ranks import correlation, ranks, resampled


def test_ranks_are_centred_and_shared():
    assert ranks(np.array([[3.0, np.inf, 3.0, -1.0], [1.0, 2.0, np.nan, 0.0]]))[0].tolist() == [0, 1.5, 0, -1.5]
    assert np.isnan(ranks(np.array([1.0, np.nan]))).all()


def test_correlation_row_by_row():
    a = ranks(np.array([1.0, 2.0, 3.0, 4.0]))
    rows = ranks(np.array([[1, 8, 27, 64.0], [4, 3, 2, 1.0], [2, 2, 2, 2.0]]))
    assert correlation(a, rows) == pytest.approx([1, -1, np.nan], nan_ok=True)


def test_a_resample_holds_as_many_clusters_as_there_are():
    times = resampled(5, 2000, 0)
    assert (times.sum(1) == 5).all()
    assert times.mean(0) == pytest.approx(np.ones(5), abs=0.1)
    assert np.array_equal(times, resampled(5, 2000, 0))
