"""Statistics over seeds against scipy and against numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedpriv import InputError
from fedpriv.statistics import contrast, holm, interval


def test_intervals_are_students() -> None:
    values = np.random.default_rng(3).normal(0.7, 0.1, size=8)
    found = interval(values)
    low, high = stats.t.interval(0.95, 7, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=1e-12)
    assert interval([1.0, 3.0]).half == pytest.approx(12.7062047, rel=1e-8)  # t table, 1 degree of freedom
    assert str(interval([0.5, 0.5])) == "0.500 ± 0.000"


def test_one_value_has_no_interval_and_none_no_mean() -> None:
    found = interval([0.25])
    assert (found.mean, found.half, found.low, str(found)) == (0.25, None, -math.inf, "0.250")
    with pytest.raises(InputError, match="at least one value"):
        interval([])


def test_contrasts_are_paired_t_tests() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.normal(0.8, 0.1, size=(2, 6))
    found = contrast(first, second)
    assert found.p == pytest.approx(float(stats.ttest_rel(first, second).pvalue), rel=1e-10)
    assert found.interval == interval(first - second)
    assert contrast([1, 2], [0.5, 1.5]).p == 0.0, "equal differences leave no doubt"
    assert contrast([1, 2], [1, 2]).p == 1.0
    for columns in (([1.0], [2.0]), ([1.0, 2.0], [1.0])):
        with pytest.raises(InputError, match="2 or more seeds"):
            contrast(*columns)


def test_holm_by_hand() -> None:
    # Sorted 0.01, 0.02, 0.03, 0.6: times 4, 3, 2, 1 gives 0.04, 0.06, 0.06, 0.6, made monotone.
    assert holm([0.03, 0.01, 0.6, 0.02]) == pytest.approx([0.06, 0.04, 0.6, 0.06])
    assert holm([0.9, 0.8]) == pytest.approx([1.0, 1.0])
    assert holm([]) == []
