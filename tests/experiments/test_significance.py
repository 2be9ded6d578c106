"""The paired t-test against its closed form, and who is compared with whom."""

import numpy as np
import pytest

from experiments.comparison.significance import PairedTest, compare, paired_t


def test_p_of_three_runs_equals_the_closed_form():
    # With 2 degrees of freedom Student's distribution has one: P(|T| > t) = 1 - t / sqrt(t^2 + 2).
    first, second = [0.71, 0.74, 0.73], [0.70, 0.71, 0.72]
    difference = np.subtract(first, second)
    t = difference.mean() / (difference.std(ddof=1) / np.sqrt(3))
    assert paired_t(first, second) == pytest.approx(1 - t / np.sqrt(t**2 + 2), rel=1e-9)
    assert paired_t(second, first) == pytest.approx(paired_t(first, second))


def test_p_of_two_runs_equals_the_closed_form():
    # With 1 degree it is Cauchy's: P(|T| > t) = 1 - 2 atan(t) / pi. Pairs with a NaN do not count.
    first, second = [0.8, np.nan, 0.75, 0.9], [0.7, 0.1, 0.7, np.nan]
    t = 0.075 / (0.05 / 2**0.5 / 2**0.5)
    assert paired_t(first, second) == pytest.approx(1 - 2 * np.arctan(t) / np.pi, rel=1e-9)


@pytest.mark.parametrize(
    ("first", "second"), [([0.5], [0.4]), ([0.7, 0.8], [0.6, 0.7]), ([np.nan] * 3, [0.1] * 3)]
)
def test_no_p_without_a_variance(first, second):
    assert paired_t(first, second) is None


def values(**methods):
    return {name: {"small": {"auc": list(row)}} for name, row in methods.items()}


def test_only_published_methods_compete():
    table = values(
        lr=(0.6, 0.7, 0.6),
        mmoe=(0.70, 0.72, 0.73),
        lightgbm=(0.9, 0.9, 0.91),
        oracle=(1, 1, 1),
        metaheac=(0.71, 0.74, 0.75),
    )
    table["without-meta"] = {"small": {"auc": [0.8, 0.8, 0.81]}}
    found = {c.against: c for c in compare(table, ["auc"])}
    assert [found["published"].method, found["published"].rival] == ["metaheac", "mmoe"]
    assert found["published"].p == paired_t((0.71, 0.74, 0.75), (0.70, 0.72, 0.73))
    assert found["published"].improvement == pytest.approx(2.2 / 2.15 - 1)
    assert found["control"].rival == "without-meta"
    assert found["control"].mark == ""  # it is worse, however surely


def test_seed_aware_has_metaheac_among_its_rivals():
    table = values(lr=(0.6, 0.7), metaheac=(0.7, 0.8))
    table |= values(**{"seed-aware": (0.6, 0.75)})
    rivals = {(c.method, c.against): c.rival for c in compare(table, ["auc"])}
    assert rivals == {
        ("metaheac", "published"): "lr",
        ("seed-aware", "published"): "metaheac",
        ("seed-aware", "control"): "metaheac",
    }
    assert compare(values(lr=(0.6, 0.7), mmoe=(0.7, 0.8)), ["auc"]) == []


def test_a_group_without_campaigns_is_left_out():
    nothing = (np.nan, np.nan)
    assert compare(values(lr=nothing, metaheac=(0.7, 0.8)), ["auc"]) == []
    assert compare(values(lr=(0.7, 0.8), metaheac=nothing), ["auc"]) == []
    # One run without: the means are of the others.
    (found,) = compare(values(lr=(0.6, np.nan), metaheac=(0.7, 0.8)), ["auc"])
    assert (found.rival_mean, found.p) == (0.6, None)


@pytest.mark.parametrize(
    ("p", "mean", "mark"),
    [
        (0.0049, 0.8, "**"),
        (0.005, 0.8, "*"),
        (0.049, 0.8, "*"),
        (0.05, 0.8, ""),
        (0.001, 0.6, ""),
        (None, 0.8, ""),
    ],
)
def test_marks(p, mean, mark):
    found = PairedTest("metaheac", "small", "auc", "published", mean, "lr", 0.7, p)
    assert found.mark == mark
