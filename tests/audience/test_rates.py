"""Intervals of rates and of their differences: published values, coverage, and power."""

import numpy as np
import pytest
from scipy.stats import binom

from metaheac_jax.audience.rates import Lift, control_needed, least_effect


@pytest.mark.parametrize(
    ("converts", "users", "interval"),
    [
        ((56, 48), (70, 80), (0.0524, 0.3339)),
        ((9, 3), (10, 10), (0.1705, 0.8090)),
        ((10, 0), (10, 20), (0.6791, 1.0)),
        ((0, 0), (10, 20), (-0.1611, 0.2775)),
    ],
)
def test_newcombes_own_examples(converts, users, interval):
    """Table II of the paper, method 10."""
    found = Lift(converts, users).difference
    np.testing.assert_allclose((found.low, found.high), interval, atol=5e-5)
    swapped = Lift(converts[::-1], users[::-1]).difference
    np.testing.assert_allclose((-swapped.high, -swapped.low), (found.low, found.high))


@pytest.mark.parametrize(
    ("rates", "users"),
    [((0.3, 0.2), (900, 100)), ((0.02, 0.01), (9000, 1000)), ((0.001, 0.0005), (90_000, 10_000))],
)
def test_the_interval_holds_the_true_difference_19_times_of_20(rates, users):
    """Exact: all likely counts, weighted by their probabilities."""
    counts = [
        np.arange(binom.ppf(1e-5, n, p), binom.ppf(1 - 1e-5, n, p) + 1, dtype=int)
        for p, n in zip(rates, users, strict=True)
    ]
    weights = [binom.pmf(k, n, p) for k, n, p in zip(counts, users, rates, strict=True)]
    covered = 0.0
    for k, weight in zip(counts[1], weights[1], strict=True):
        found = [Lift((own, k), users).difference for own in counts[0].tolist()]
        inside = [own.low <= rates[0] - rates[1] <= own.high for own in found]
        covered += weight * weights[0][inside].sum()
    assert 0.94 < covered < 0.975


def test_a_control_group_of_the_size_that_is_needed_shows_the_difference_4_times_of_5():
    shown, control, num_shown = 0.03, 0.02, 20_000
    size = control_needed(shown, control, num_shown)
    rng, runs = np.random.default_rng(0), 2000
    counts = rng.binomial(num_shown, shown, runs), rng.binomial(size, control, runs)
    found = [Lift(own, (num_shown, size)).difference.low > 0 for own in zip(*counts, strict=True)]
    assert abs(np.mean(found) - 0.8) < 0.03
    assert control_needed(0.03, 0.0299, num_shown) is None
    assert least_effect(shown, num_shown, size) == pytest.approx(1 / 3, abs=2e-3)
    assert least_effect(0.03, 100, 1) == 1


def test_the_summary_says_when_a_control_group_is_too_small():
    assert "takes" not in Lift((300, 10), (1000, 100)).summary
    needed = control_needed(0.3, 0.25, 1000)
    assert Lift((300, 25), (1000, 100)).summary.endswith(f"takes {needed:,} control users")
    assert "takes a larger audience" in Lift((30, 2), (100, 10)).summary
