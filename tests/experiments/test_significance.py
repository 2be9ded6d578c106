"""Paired tests against closed forms and scipy, their rates under the null, and the claims."""

from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_runs import campaign, result
from scipy import stats

from experiments.comparison import significance
from experiments.comparison.results import Measured, method_values
from experiments.comparison.significance import (
    PRIMARY,
    Claim,
    Difference,
    against,
    describe_test,
    difference,
    every_pair,
    holm,
    over_campaigns,
    over_runs,
    primary_claims,
    table_claims,
)
from metaheac_jax.methods import METHODS

# Tests over runs --------------------------------------------------------------------------------


def test_p_of_three_runs_equals_the_closed_form():
    # With 2 degrees of freedom Student's distribution has one: P(|T| > t) = 1 - t / sqrt(t^2 + 2).
    first, second = [0.71, 0.74, 0.73], [0.70, 0.71, 0.72]
    found = over_runs(first, second)
    differences = np.subtract(first, second)
    t = differences.mean() / (differences.std(ddof=1) / np.sqrt(3))
    assert found.mean == pytest.approx(differences.mean())
    assert found.error == pytest.approx(differences.mean() / t)
    assert found.p == pytest.approx(1 - t / np.sqrt(t**2 + 2), rel=1e-9)
    assert over_runs(second, first).p == pytest.approx(found.p)


def test_p_of_two_runs_equals_the_closed_form():
    # With 1 degree it is Cauchy's: P(|T| > t) = 1 - 2 atan(t) / pi. Pairs with a NaN do not count.
    first, second = [0.8, np.nan, 0.75, 0.9], [0.7, 0.1, 0.7, np.nan]
    t = 0.075 / (0.05 / 2**0.5 / 2**0.5)
    assert over_runs(first, second).p == pytest.approx(1 - 2 * np.arctan(t) / np.pi, rel=1e-9)


def test_independent_runs_have_students_paired_test():
    rng = np.random.default_rng(0)
    first, second = rng.random((2, 5))
    assert over_runs(first, second).p == pytest.approx(stats.ttest_rel(first, second).pvalue)


def test_an_overlap_widens_the_error_as_nadeau_and_bengio_have_it():
    first, second = [0.71, 0.74, 0.73], [0.70, 0.71, 0.72]
    plain, corrected = over_runs(first, second), over_runs(first, second, overlap=2 / 3)
    assert corrected.error == pytest.approx(plain.error * np.sqrt((1 / 3 + 2 / 3) / (1 / 3)))
    t = corrected.mean / corrected.error
    assert corrected.p == pytest.approx(1 - t / np.sqrt(t**2 + 2))


@pytest.mark.parametrize(
    ("first", "second", "mean"),
    [([0.5], [0.4], 0.1), ([0.7, 0.8], [0.6, 0.7], 0.1), ([np.nan] * 3, [0.1] * 3, np.nan)],
)
def test_no_p_without_a_variance(first, second, mean):
    found = over_runs(first, second)
    assert found.mean == pytest.approx(mean, nan_ok=True)
    assert found.p is None


@pytest.mark.parametrize("training", [0.0, 0.1])
def test_rates_of_rejection_under_the_null_for_splits_of_the_same_campaigns(training):
    """Two methods that are alike: every campaign prefers one of them by chance.

    ``training`` is the deviation of what a run adds, which does not depend on its campaigns.
    """
    rng = np.random.default_rng(0)
    num_trials, num_campaigns, num_test, num_runs = 1500, 100, 40, 5
    overlap, rejected = num_test / (num_campaigns - num_test), np.zeros(2)
    for _ in range(num_trials):
        prefers = rng.normal(size=num_campaigns)
        tested = rng.permuted(np.tile(prefers, (num_runs, 1)), axis=1)[:, :num_test]
        means = tested.mean(axis=1) + training * rng.normal(size=num_runs)
        nothing = np.zeros(num_runs)
        rejected += [over_runs(means, nothing, of).p < 0.05 for of in (0.0, overlap)]
    plain, corrected = rejected / num_trials
    assert plain > 0.12  # in the limit of no training's chance .25
    assert corrected < 0.05 + 3 * np.sqrt(0.05 * 0.95 / num_trials)
    if not training:  # the correction is exact
        assert corrected > 0.05 - 3 * np.sqrt(0.05 * 0.95 / num_trials)


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
    first, second = (
        Measured(tuple(of.mean(axis=1)), tuple(by_id(row) for row in of)) for of in aucs
    )
    assert describe_test(num_runs, overlap).startswith(unit)
    expected = (
        over_campaigns(first.campaigns, second.campaigns)
        if "campaigns of" in unit
        else over_runs(first.runs, second.runs, overlap)
    )
    assert difference(first, second, overlap) == expected
    assert (expected.p is None) == ("campaigns of" in unit)
    # What no campaign has on its own has no error over campaigns.
    pooled = difference(Measured(first.runs), Measured(second.runs), overlap)
    assert pooled.mean == pytest.approx(expected.mean)
    assert (pooled.error is None) == ("campaigns of" in unit)


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


# Claims -----------------------------------------------------------------------------------------


def values(**methods):
    """Values of AUC on small seed sets, one row of run means per method."""
    results = [
        {
            name.replace("_", "-"): result(name, [campaign(1, "small", row[run])], small=row[run])
            for name, row in methods.items()
        }
        for run in range(len(next(iter(methods.values()))))
    ]
    return method_values(results)


def auc_claims(claims):
    return {c.method: c for c in claims if (c.group, c.measure) == ("small", "auc")}


TABLE = values(
    lr=(0.60, 0.70, 0.60),
    mmoe=(0.70, 0.72, 0.73),
    lightgbm=(0.68, 0.74, 0.74),
    oracle=(1, 1, 0.99),
    metaheac=(0.71, 0.75, 0.76),
)


def test_a_claim_is_against_every_row_but_the_oracle_with_the_largest_p():
    own = (0.71, 0.75, 0.76)
    claim = auc_claims(table_claims(TABLE, list(TABLE), 0.0))["metaheac"]
    assert claim.rivals == ("lr", "mmoe", "lightgbm")
    assert claim.best == "lightgbm"
    assert (claim.mean, claim.best_mean) == pytest.approx((0.74, 0.72))
    assert claim.improvement == pytest.approx(0.74 / 0.72 - 1)
    rows = {"lr": (0.60, 0.70, 0.60), "mmoe": (0.70, 0.72, 0.73), "lightgbm": (0.68, 0.74, 0.74)}
    p_values = {name: over_runs(own, row).p for name, row in rows.items()}
    assert max(p_values, key=p_values.get) != "lightgbm"  # not the p of the highest
    assert claim.p == max(p_values.values())
    assert claim.difference == over_runs(own, rows["lightgbm"])
    # Rows that are not in the table are no rivals.
    claim = auc_claims(table_claims(TABLE, ["mmoe", "metaheac"], 0.0))["metaheac"]
    assert (claim.rivals, claim.p) == (("mmoe",), p_values["mmoe"])


def test_holms_correction_is_over_the_claims_of_the_table():
    claims = table_claims(TABLE, list(TABLE), 0.0)
    assert len(claims) == 4  # AUC, precision, recall, pooled AUC, on small seed sets
    assert [c.p_holm for c in claims] == holm([c.p for c in claims])
    # They are multiples of each other, and so are all p-values.
    assert claims[0].p_holm == pytest.approx(4 * claims[0].p)


def test_no_star_where_a_row_is_higher():
    # MetaHeac is surely better than MMoE, and surely worse than a method of no published table.
    table = values(mmoe=(0.70, 0.72, 0.71), prior=(0.9, 0.92, 0.91), metaheac=(0.801, 0.82, 0.81))
    claim = auc_claims(table_claims(table, list(table), 0.0))["metaheac"]
    assert (claim.best, claim.p, claim.mark) == ("prior", 1.0, "")
    claim = auc_claims(table_claims(table, ["mmoe", "metaheac"], 0.0))["metaheac"]
    assert claim.mark
    # An equal row is no better.
    table = values(mmoe=(0.70, 0.72, 0.71), prior=(0.8, 0.82, 0.81), metaheac=(0.8, 0.82, 0.81))
    assert auc_claims(table_claims(table, list(table), 0.0))["metaheac"].p == 1.0


@pytest.mark.parametrize("ahead", [0.61, 0.59])
def test_one_run_makes_no_claim_whoever_is_ahead(ahead):
    row = {"auc": Measured((ahead,), ({1: ahead - 0.1, 2: ahead + 0.1},))}
    rival = {"auc": Measured((0.6,), ({1: 0.4, 2: 0.8},))}
    nothing = dict.fromkeys(("precision", "recall", "pooled_auc"), Measured((np.nan,)))
    table = {
        name: dict.fromkeys(("small", "large"), of | nothing)
        for name, of in (("metaheac", row), ("lr", rival))
    }
    for claim in table_claims(table, list(table), 0.0):
        assert claim.difference.mean == pytest.approx(ahead - 0.6)
        assert (claim.p, claim.p_holm, claim.mark) == (None, None, "")


def test_no_star_without_a_test():
    table = values(mmoe=(0.7, 0.7, 0.7), metaheac=(0.8, 0.8, 0.8))  # no variance
    claim = auc_claims(table_claims(table, list(table), 0.0))["metaheac"]
    assert (claim.p, claim.p_holm, claim.mark) == (None, None, "")


def test_an_overlap_reaches_the_claims():
    plain, corrected = (
        auc_claims(table_claims(TABLE, list(TABLE), overlap))["metaheac"] for overlap in (0, 2 / 3)
    )
    assert corrected.p > plain.p
    assert corrected.difference.error > plain.difference.error


def test_a_primary_claim_needs_all_of_its_rivals():
    row = (0.60, 0.65, 0.62)
    rows = {"metaheac": row, "lr": np.add(row, 0.2)}
    worse = np.subtract(row, (0.01, 0.02, 0.01))
    rows |= dict.fromkeys(("alpha_0", "without_meta", "mlp_pretraining"), worse)
    [claim] = primary_claims(values(**rows), 0.0)
    assert (claim.method, claim.rivals) == ("metaheac", PRIMARY["metaheac"])
    assert (claim.group, claim.measure) == ("small", "auc")
    # The correction is for all primary claims, also for the three of methods that were not run.
    assert claim.p_holm == min(1.0, 4 * claim.p)
    for missing in PRIMARY["metaheac"]:
        name = missing.replace("-", "_")
        without = {key: own for key, own in rows.items() if key != name}
        assert primary_claims(values(**without), 0.0) == []
        assert primary_claims(values(**rows | {name: (np.nan,) * 3}), 0.0) == []


def test_the_rivals_of_a_primary_claim_have_the_features_of_its_method():
    """The ensemble's rivals include both of its trained members."""
    controls = ("alpha-0", "without-meta", "mlp-pretraining")
    lengths = tuple(f"{name}-lengths" for name in ("metaheac", *controls))
    favoured = ("metaheac", "seed-aware", "solved-head", "ensemble")
    names = [name.replace("-", "_") for name in (*controls, *lengths, "lr", *favoured)]
    rows = np.random.default_rng(4).random((len(names), 3))
    claims = primary_claims(values(**dict(zip(names, rows, strict=True))), 0.0)
    rivals = (controls, lengths, lengths, (*lengths, "solved-head"))
    assert {c.method: c.rivals for c in claims} == dict(zip(favoured, rivals, strict=True))


def test_every_pair_is_tested_once():
    rng = np.random.default_rng(3)
    names = ("lr", "alpha_0", "without_meta", "mlp_pretraining", "metaheac", "seed_aware")
    rows = dict(zip(names, rng.random((6, 3)), strict=True))
    pairs = every_pair(values(**rows), 0.0)
    small = [pair for pair in pairs if pair.group == "small"]
    assert len(small) == 10  # of 5; LR is none
    assert len({frozenset((pair.first, pair.second)) for pair in small}) == 10
    pair = next(p for p in small if {p.first, p.second} == {"metaheac", "alpha-0"})
    assert pair.first == "metaheac"  # so that a gain has a plus
    assert pair.difference == over_runs(rows["metaheac"], rows["alpha_0"])
    assert [p.p_holm for p in pairs] == holm([p.difference.p for p in pairs])
    # Nothing is known of large seed sets.
    large = [pair for pair in pairs if pair.group == "large"]
    assert all(np.isnan(p.difference.mean) and p.p_holm is None for p in large)


def test_a_world_without_large_sets_does_not_count_as_a_run():
    of = lambda *runs: Measured(runs, tuple({1: v, 2: v - 0.1 * n} for n, v in enumerate(runs)))  # noqa: E731
    whole, part = of(0.7, 0.72, 0.75), of(0.6, np.nan, 0.61)
    assert difference(whole, of(0.6, 0.6, 0.61), 0.0).p is not None
    assert difference(whole, part, 0.0).p is None
    table = {
        name: dict.fromkeys(("small", "large"), dict.fromkeys(significance.MEASURES, own))
        for name, own in (("metaheac", whole), ("lr", part))
    }
    assert {claim.p for claim in table_claims(table, list(table), 0.0)} == {None}


@pytest.mark.parametrize("measure", ["auc", "precision"])
def test_methods_against_a_reference(measure):
    rows = {"lr": (0.6, 0.62, 0.7), "metaheac": (0.7, 0.75, 0.73), "prior": (0.5, 0.54, 0.55)}
    pairs = against(values(**rows), ["lr", "metaheac"], "prior", measure, 0.0)
    small = {pair.first: pair for pair in pairs if pair.group == "small"}
    assert set(small) == {"lr", "metaheac"}
    assert {pair.second for pair in pairs} == {"prior"}
    scale = {"auc": 1.0, "precision": 0.5}[measure]  # see judged_runs
    expected = over_runs(np.multiply(rows["lr"], scale), np.multiply(rows["prior"], scale))
    assert small["lr"].difference.mean == pytest.approx(expected.mean)
    assert small["lr"].difference.p == pytest.approx(expected.p)
    assert [p.p_holm for p in pairs] == holm([p.difference.p for p in pairs])


def test_a_group_without_campaigns_is_left_out():
    nothing = (np.nan, np.nan)
    both = ["lr", "metaheac"]
    assert auc_claims(table_claims(values(lr=nothing, metaheac=(0.7, 0.8)), both, 0.0)) == {}
    assert auc_claims(table_claims(values(lr=(0.7, 0.8), metaheac=nothing), both, 0.0)) == {}


def test_pairs_are_of_the_methods_of_the_primary_claims_which_exist():
    assert set(significance.PAIRED) <= set(METHODS)
    rivals = set().union(*PRIMARY.values())
    seeds = {"seed-aware", "alpha-0-seeds", "mlp-seeds"}
    assert set(significance.PAIRED) == rivals | seeds | {"metaheac", "ensemble"}


@pytest.mark.parametrize(
    ("p", "mark"),
    [(0.0049, "**"), (0.005, "*"), (0.049, "*"), (0.05, ""), (1.0, ""), (None, "")],
)
def test_marks_are_by_p_after_holms_correction(p, mark):
    claim = Claim("metaheac", "small", "auc", ("lr",), 0.8, "lr", 0.7, Difference(0.1), 1e-9, p)
    assert claim.mark == mark
