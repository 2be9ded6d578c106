"""Traits: a plain count of users who have each value."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience import explanation
from metaheac_jax.audience.explanation import audience_traits, sensitive_shares
from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.schema import Schema

DATA = dataset(users=300, campaigns=3, per_campaign=40, pool=30)


def plain(ids):
    """For each field and value, how many of these users have it."""
    counts = {}
    for user in np.flatnonzero(np.isin(DATA.user_ids, ids)):
        for number, (field, start) in enumerate(
            zip(DATA.schema.user, DATA.schema.user_starts, strict=True)
        ):
            offset, values = DATA.vocabulary.offsets[number], DATA.vocabulary.values[number]
            rows = DATA.user_rows[user, start : start + field.slots]
            for row in {int(row) for row in rows if row < DATA.num_rows}:
                key = field.name, str(values[row - offset])
                counts[key] = counts.get(key, 0) + 1
    return counts


def mask(*parts):
    """(U,) bool, users by index."""
    found = np.zeros(300, bool)
    for part in parts:
        found[part] = True
    return found


ALL = mask(slice(None))


def test_equal_to_a_plain_count(monkeypatch):
    monkeypatch.setattr(explanation, "_BLOCK", 7)
    monkeypatch.setattr(explanation, "MIN_CELL", 1)
    audience, pool = mask(slice(40, 160)), ~mask(slice(200, 250))
    found = audience_traits(DATA, audience, pool)
    a, p = (plain(DATA.user_ids[group]) for group in (audience, pool))
    assert {(t.field, t.value) for t in found} == set(a)
    for t in found:
        key = t.field, t.value
        assert t.audience == a[key] / 120
        assert t.pool == p[key] / 250
    lifts = [t.lift for t in found]
    assert lifts == sorted(lifts, reverse=True)


def test_small_cells_are_left_out(monkeypatch):
    monkeypatch.setattr(explanation, "MIN_CELL", 30)
    audience, counts = mask(slice(100)), plain(DATA.user_ids[:100])
    found = audience_traits(DATA, audience, ALL)
    assert {(t.field, t.value) for t in found} == {k for k, n in counts.items() if n >= 30}
    assert 0 < len(found) < len(counts)


def test_buckets_and_missing_values_are_named():
    fields = [replace(DATA.schema.user[0], edges=(2.5,)), *DATA.schema.user[1:]]
    values = (np.array([-1, 0]), *DATA.vocabulary.values[1:])
    data = replace(
        DATA,
        schema=Schema(tuple(fields), DATA.schema.campaign),
        vocabulary=replace(DATA.vocabulary, values=values),
    )
    found = audience_traits(data, ALL, ALL)
    assert {t.value for t in found if t.field == "gender"} == {"(missing)", "below 2.5"}


# Sensitive fields -------------------------------------------------------------------------------


def sensitive(codes, values=("men", "women"), name="sex"):
    """The data with one sensitive field."""
    codes = np.asarray(codes, np.int32).reshape(300, -1)
    return replace(DATA, sensitive={name: SensitiveField(np.array(values), codes)})


def test_sensitive_shares_are_a_plain_count(monkeypatch):
    monkeypatch.setattr(explanation, "_BLOCK", 7)
    monkeypatch.setattr(explanation, "MIN_CELL", 1)
    codes = np.random.default_rng(0).integers(0, 4, (300, 2))  # 3: an empty slot
    data, pool, members = (
        sensitive(codes, ("a", "b", "c")),
        mask(slice(20, 290)),
        np.arange(40, 160),
    )
    shares = sensitive_shares(data, mask(members), pool)
    assert [(s.field, s.value) for s in shares] == [("sex", value) for value in "abc"]
    rates = []
    for code, s in enumerate(shares):
        has = (codes == code).any(axis=1)
        assert s.audience == has[members].mean()
        assert s.pool == has[pool].mean()
        rates.append(has[members].sum() / has[pool].sum())  # of selection
    for rate, s in zip(rates, shares, strict=True):
        assert s.impact == pytest.approx(rate / max(rates))


HALVES = np.arange(300) % 2  # men 0, women 1


@pytest.mark.parametrize(
    ("women", "flags"),
    [
        (100, [False, False]),  # as in the pool
        (89, [False, False]),  # selected at 89 of 150 and 111 of 150: .802
        (88, [False, True]),  # .786
        (112, [True, False]),
    ],
)
def test_four_fifths_of_the_highest_rate_are_enough(women, flags):
    audience = mask(np.arange(300)[0::2][: 200 - women], np.arange(300)[1::2][:women])
    assert [s.is_rare for s in sensitive_shares(sensitive(HALVES), audience, ALL)] == flags


def test_a_value_that_the_audience_lacks_is_flagged_though_its_count_is_not_told():
    for women in (0, 20, 49):
        audience = mask(slice(0, None, 2), np.arange(300)[1::2][:women])
        shares = sensitive_shares(sensitive(HALVES), audience, ALL)
        assert shares[1].audience is None
        assert shares[1].impact == pytest.approx(49 / 150)  # at most 49 of them, of 150
        assert [s.is_rare for s in shares] == [False, True]


def test_no_more_users_than_the_audience_has_are_assumed():
    for share in sensitive_shares(sensitive(HALVES), mask(slice(20)), ALL):
        assert (share.audience, share.impact) == (None, 1)


def test_impact_has_no_bound_below_1_if_no_rate_is_known(monkeypatch):
    """Both values have a user of the audience, whose other users have rare values."""
    monkeypatch.setattr(explanation, "MIN_CELL", 5)
    data = sensitive(np.r_[np.repeat([0, 1], [80, 120]), 2:102], np.arange(102).astype(str))
    for share in sensitive_shares(data, mask(0, 80, slice(200, 300)), ALL):
        assert (share.impact, share.bounded) == (1, True)


@pytest.mark.parametrize(("others", "bounded"), [(50, True), (150, False)])
def test_impact_is_a_bound_if_the_most_selected_value_may_be_a_rare_one(others, bounded):
    """Most of the few women may have been selected, but of many, 49 are a small rate."""
    data = sensitive(np.repeat([0, 1], [300 - others, others]))
    men, women = sensitive_shares(data, mask(slice(0, 300 - others, 2)), ALL)
    assert (men.impact, men.bounded, women.bounded) == (1, bounded, True)


def test_values_of_few_users_of_the_pool_are_left_out():
    data = sensitive(np.where(np.arange(300) < 49, 1, 0))
    assert [s.value for s in sensitive_shares(data, ALL, ALL)] == ["men"]
    assert sensitive_shares(DATA, ALL, ALL) == []
