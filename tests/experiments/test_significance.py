"""Paired tests against closed forms and scipy, their rates under the null, and the claims."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_runs import of_means
from scipy import stats

from experiments.baselines import METHODS
from experiments.comparison.results import Measured
from experiments.comparison.significance import (
    PAIRED,
    Difference,
    describe_test,
    difference,
    every_pair,
    holm,
    over_campaigns,
    over_runs,
    primary_claims,
)

# Tests over runs --------------------------------------------------------------------------------


def test_independent_runs_have_students_paired_test():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 5))
    expected = stats.ttest_rel(first, second)
    # Pairs with a NaN do not count.
    found = over_runs([*first, np.nan, 0.9], [*second, 0.1, np.nan])
    assert found.mean == pytest.approx((first - second).mean())
    assert found.error == pytest.approx(found.mean / expected.statistic)
    assert found.p == pytest.approx(expected.pvalue)


def test_an_overlap_widens_the_error_as_nadeau_and_bengio_have_it():
    first, second = [0.71, 0.74, 0.73], [0.70, 0.71, 0.72]
    plain, corrected = over_runs(first, second), over_runs(first, second, overlap=2 / 3)
    assert corrected.error == pytest.approx(plain.error * np.sqrt((1 / 3 + 2 / 3) / (1 / 3)))
    t = corrected.mean / corrected.error
    # With 2 degrees of freedom Student's distribution has a closed form.
    assert corrected.p == pytest.approx(1 - t / np.sqrt(t**2 + 2))


@pytest.mark.parametrize(
    ("first", "second", "mean"),
    [([0.5], [0.4], 0.1), ([0.7, 0.8], [0.6, 0.7], 0.1), ([np.nan] * 3, [0.1] * 3, np.nan)],
)
def test_no_p_without_a_variance(first, second, mean):
    found = over_runs(first, second)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert found.p is None


# Tests over campaigns ---------------------------------------------------------------------------


def by_id(values):
    return dict(enumerate(values))


def test_the_error_over_campaigns_of_one_world_is_that_of_students_paired_test():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 12))
    # A campaign that one of them has no value of does not count.
    found = over_campaigns([by_id(first) | {99: 1.0}], [by_id(second) | {98: 0.0}])
    expected = stats.ttest_rel(first, second)
    assert found.mean == pytest.approx(np.mean(first - second))
    assert found.error == pytest.approx(found.mean / expected.statistic)
    assert found.p is None


def test_the_error_over_campaigns_of_two_worlds_is_that_of_welchs_test():
    # The mean of two runs' means is half their sum, the difference of a - (-b).
    rng = np.random.default_rng(1)
    first, second = rng.normal(0.3, 1, size=9), rng.normal(0.2, 3, size=25)
    found = over_campaigns(
        [by_id(first), by_id(second)], [dict.fromkeys(range(25), 0.0), dict.fromkeys(range(25), 0)]
    )
    expected = stats.ttest_ind(first, -second, equal_var=False)
    assert found.mean == pytest.approx((first.mean() + second.mean()) / 2)
    assert found.error == pytest.approx(found.mean / expected.statistic)


def test_campaigns_that_tell_nothing():
    assert over_campaigns([{}], [{}]).error is None
    assert np.isnan(over_campaigns([{}], [{}]).mean)
    assert over_campaigns([{1: 0.5}], [{1: 0.25}]) == Difference(0.25)
    assert over_campaigns([{1: 0.5, 2: 0.5}], [{1: 0.25, 2: 0.25}]) == Difference(0.25, 0.0)


@pytest.mark.parametrize(
    ("num_runs", "overlap", "unit"),
    [
        (1, 0.0, "Errors are over the campaigns of one world. They do not include"),
        (2, 0.0, "Errors are over the campaigns of 2 worlds. They do not include"),
        (3, 0.0, "Paired t-test over the runs, each in a world of its own"),
        (1, 0.5, "Errors are over the campaigns of one split. They do not include"),
        (2, 0.5, "Corrected resampled t-test (Nadeau and Bengio 2003) over the runs"),
    ],
)
def test_the_unit_is_a_campaign_only_if_there_are_few_independent_runs(num_runs, overlap, unit):
    rng = np.random.default_rng(2)
    aucs = rng.random((2, num_runs, 8))
    first, second = (Measured(tuple(by_id(row) for row in of)) for of in aucs)
    assert describe_test(num_runs, overlap).startswith(unit)
    expected = (
        over_campaigns(first.campaigns, second.campaigns)
        if "campaigns of" in unit
        else over_runs(first.runs, second.runs, overlap)
    )
    assert difference(first, second, overlap) == expected
    assert (expected.p is None) == ("campaigns of" in unit)


# Holm's correction ------------------------------------------------------------------------------


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, None, 0.02]) == pytest.approx([0.5, None, 0.04])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holm_is_the_closed_test_of_bonferronis(p_values):
    # An intersection of hypotheses is rejected by its smallest p times its size; a hypothesis, if
    # every intersection with it is.
    places = range(len(p_values))
    subsets = chain.from_iterable(combinations(places, n + 1) for n in places)
    sizes = {s: min(1.0, len(s) * min(p_values[i] for i in s)) for s in subsets}
    expected = [max(p for s, p in sizes.items() if i in s) for i in places]
    assert holm(p_values) == pytest.approx(expected)


# Claims and pairs -------------------------------------------------------------------------------

ROW = (0.60, 0.65, 0.62)
WORSE = tuple(np.subtract(ROW, (0.01, 0.02, 0.01)))
RIVALS = dict.fromkeys(("alpha_0", "without_meta", "mlp_pretraining"), WORSE)


def test_a_primary_claim_needs_all_of_its_rivals():
    [claim] = primary_claims(of_means(metaheac=ROW, lr=np.add(ROW, 0.2), **RIVALS))
    assert claim.method == "metaheac"
    assert claim.difference == over_runs(ROW, WORSE)
    # The correction is for all primary claims, also for those of methods that were not run.
    assert claim.p_holm == min(1.0, 4 * claim.p)
    for missing in RIVALS:
        without = {name: row for name, row in RIVALS.items() if name != missing}
        assert primary_claims(of_means(metaheac=ROW, **without)) == []


def test_a_claim_has_the_largest_p_over_its_rivals():
    rivals = RIVALS | {"alpha_0": (0.55, 0.645, 0.56)}  # lower, but less surely
    [claim] = primary_claims(of_means(metaheac=ROW, **rivals))
    p_values = {name: over_runs(ROW, row).p for name, row in rivals.items()}
    assert claim.p == max(p_values.values()) == p_values["alpha_0"]
    assert claim.best != "alpha-0"
    # A rival that is as good refutes it; one run tests nothing, whoever is ahead.
    [claim] = primary_claims(of_means(metaheac=ROW, **(RIVALS | {"alpha_0": ROW})))
    assert (claim.best, claim.p, claim.p_holm) == ("alpha-0", 1.0, 1.0)
    single = {name: row[:1] for name, row in RIVALS.items()}
    for ahead in (0.9, 0.1):
        [claim] = primary_claims(of_means(metaheac=(ahead,), **single))
        assert (claim.p, claim.p_holm) == (None, None)


def test_an_overlap_reaches_claims_and_pairs():
    plain, corrected = (
        of_means(metaheac=ROW, independent_runs=free, **RIVALS) for free in (True, False)
    )
    for found in (primary_claims, every_pair):
        assert found(corrected)[0].difference.error > found(plain)[0].difference.error


def test_every_pair_is_tested_once():
    rng = np.random.default_rng(3)
    names = ("lr", "alpha_0", "without_meta", "mlp_pretraining", "metaheac", "ensemble")
    rows = dict(zip(names, rng.random((6, 3)), strict=True))
    found = every_pair(of_means(**rows))
    small = [pair for pair in found if pair.group == "small"]
    assert len(small) == 10  # of 5; LR is none
    assert len({frozenset((pair.first, pair.second)) for pair in small}) == 10
    pair = next(p for p in small if {p.first, p.second} == {"metaheac", "alpha-0"})
    assert pair.first == "metaheac"  # so that a gain has a plus
    assert pair.difference == over_runs(rows["metaheac"], rows["alpha_0"])
    assert [p.p_holm for p in found] == holm([p.difference.p for p in found])
    assert set(PAIRED) <= set(METHODS)
    # Nothing is known of large seed sets.
    large = [pair for pair in found if pair.group == "large"]
    assert all(np.isnan(p.difference.mean) and p.p_holm is None for p in large)
