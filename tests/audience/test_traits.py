"""Traits: a plain count of users who have each value."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience import traits
from metaheac_jax.audience.traits import audience_traits, sensitive_shares
from metaheac_jax.data.dataset import SensitiveField
from metaheac_jax.errors import InputError
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


def test_equal_to_a_plain_count(monkeypatch):
    monkeypatch.setattr(traits, "_BLOCK", 7)
    audience, seeds = DATA.user_ids[40:160], DATA.user_ids[:30]
    found = audience_traits(DATA, [*audience, 10**9], seeds, min_cell=1)
    a, s, p = plain(audience), plain(seeds), plain(DATA.user_ids)
    assert {(t.field, t.value) for t in found} == set(a)
    for t in found:
        key = t.field, t.value
        assert t.num_audience == a[key]
        assert t.audience == a[key] / 120
        assert t.seeds == (s[key] / 30 if key in s else None)
        assert t.pool == p[key] / 300
    lifts = [t.lift for t in found]
    assert lifts == sorted(lifts, reverse=True)


def test_excluded_users_are_not_of_the_pool():
    audience, excluded = DATA.user_ids[40:160], DATA.user_ids[200:250]
    found = audience_traits(DATA, audience, audience, exclude=[*excluded, 10**9], min_cell=1)
    a, p = plain(audience), plain(np.setdiff1d(DATA.user_ids, excluded))
    assert {(t.field, t.value): t.pool for t in found} == {key: p[key] / 250 for key in a}
    data = sensitive(np.arange(300) % 2)
    shares = sensitive_shares(data, data.user_ids[:100], exclude=data.user_ids[101::2])
    assert [(s.pool, s.ratio) for s in shares] == [(0.75, 0.5 / 0.75), (0.25, 0.5 / 0.25)]


def test_small_cells_are_left_out():
    audience = DATA.user_ids[:100]
    counts = plain(audience)
    found = audience_traits(DATA, audience, audience, min_cell=30)
    assert {(t.field, t.value) for t in found} == {k for k, n in counts.items() if n >= 30}
    assert 0 < len(found) < len(counts)
    seeds = DATA.user_ids[200:240]
    found, of_seeds = audience_traits(DATA, audience, seeds, min_cell=15), plain(seeds)
    for t in found:
        count = of_seeds.get((t.field, t.value), 0)
        assert t.seeds == (None if count < 15 else count / 40)
    assert {t.seeds is None for t in found} == {True, False}


def test_buckets_and_missing_values_are_named():
    fields = [replace(DATA.schema.user[0], edges=(2.5,)), *DATA.schema.user[1:]]
    values = (np.array([-1, 0]), *DATA.vocabulary.values[1:])
    data = replace(
        DATA,
        schema=Schema(tuple(fields), DATA.schema.campaign),
        vocabulary=replace(DATA.vocabulary, values=values),
    )
    found = audience_traits(data, DATA.user_ids, DATA.user_ids, min_cell=1)
    assert {t.value for t in found if t.field == "gender"} == {"(missing)", "-inf to 2.5"}


# Sensitive fields -------------------------------------------------------------------------------


def sensitive(codes, values=("men", "women"), name="sex"):
    """The data with one sensitive field."""
    codes = np.asarray(codes, np.int32).reshape(300, -1)
    return replace(DATA, sensitive={name: SensitiveField(np.array(values), codes)})


def test_sensitive_shares_are_a_plain_count(monkeypatch):
    monkeypatch.setattr(traits, "_BLOCK", 7)
    codes = np.random.default_rng(0).integers(0, 4, (300, 2))  # 3: an empty slot
    data, values = sensitive(codes, ("a", "b", "c")), "abc"
    members = np.arange(40, 160)
    shares = sensitive_shares(data, data.user_ids[members], min_cell=1)
    assert [(s.field, s.value) for s in shares] == [("sex", value) for value in values]
    rates = []
    for code, s in enumerate(shares):
        has = (codes == code).any(axis=1)
        assert s.audience == has[members].mean()
        assert s.pool == has.mean()
        rates.append(has[members].sum() / has.sum())  # of selection
        assert s.ratio == pytest.approx(rates[-1] / (120 / 300))
    for rate, s in zip(rates, shares, strict=True):
        assert s.impact == pytest.approx(rate / max(rates))


@pytest.mark.parametrize(
    ("women", "flags"),
    [
        (100, ["", ""]),  # as in the pool
        (89, ["", ""]),  # selected at 89 of 150 and 111 of 150: .802
        (88, ["", "under"]),  # .786
        (112, ["under", ""]),
        (74, ["over", "under"]),  # men: 126 of 150, 1.26 times all users' 200 of 300
    ],
)
def test_four_fifths_of_the_highest_rate_are_enough(women, flags):
    data = sensitive(np.arange(300) % 2)
    ids = [*data.user_ids[0::2][: 200 - women], *data.user_ids[1::2][:women]]
    assert [s.flag for s in sensitive_shares(data, ids)] == flags


def test_a_value_that_the_audience_lacks_is_flagged_though_its_count_is_not_told():
    data = sensitive(np.arange(300) % 2)
    men = data.user_ids[0::2]
    for women in (0, 20, 49):
        shares = sensitive_shares(data, [*men, *data.user_ids[1::2][:women]])
        assert shares[1].audience is None
        # At most 49 of them, of 150.
        assert shares[1].ratio == pytest.approx(49 / (150 + women) / 0.5)
        assert shares[1].impact == pytest.approx(49 / 150)
        assert [s.flag for s in shares] == ["over", "under"]


def test_no_more_users_than_the_audience_has_are_assumed():
    data = sensitive(np.arange(300) % 2)
    for share in sensitive_shares(data, data.user_ids[:20]):
        assert (share.audience, share.impact) == (None, 1)
        assert share.ratio == pytest.approx(2)  # at most all of the audience, of half the pool


def test_impact_has_no_bound_below_1_if_no_rate_is_known():
    """Both values have a user of the audience, whose other users have rare values."""
    data = sensitive(np.r_[np.repeat([0, 1], [80, 120]), 2:102], np.arange(102).astype(str))
    for share in sensitive_shares(data, data.user_ids[[0, 80, *range(200, 300)]], min_cell=5):
        assert share.ratio < 0.2
        assert (share.impact, share.bounded) == (1, True)


def test_an_upper_bound_is_not_flagged_as_too_often():
    data = sensitive(np.where(np.arange(300) < 60, 1, 0))
    many, few = sensitive_shares(data, data.user_ids[50:150])
    assert few.audience is None
    assert many.impact == 1  # no bound is the highest rate
    assert few.ratio == pytest.approx(49 / 100 / 0.2)
    assert few.flag == ""


@pytest.mark.parametrize(("others", "bounded"), [(50, True), (150, False)])
def test_impact_is_a_bound_if_the_most_selected_value_may_be_a_rare_one(others, bounded):
    """Most of the few women may have been selected, but of many, 49 are a small rate."""
    data = sensitive(np.repeat([0, 1], [300 - others, others]))
    men, women = sensitive_shares(data, data.user_ids[: 300 - others : 2])
    assert (men.impact, men.bounded, women.bounded) == (1, bounded, True)


def test_values_of_few_users_of_the_pool_are_left_out():
    data = sensitive(np.where(np.arange(300) < 49, 1, 0))
    assert [s.value for s in sensitive_shares(data, data.user_ids)] == ["men"]
    assert sensitive_shares(DATA, DATA.user_ids) == []


@pytest.mark.parametrize(("audience", "seeds"), [([10**9], [3]), ([3], [10**9])])
def test_ids_of_nobody_are_refused(audience, seeds):
    with pytest.raises(InputError, match="no id is a user of toy"):
        audience_traits(DATA, audience, seeds)
    with pytest.raises(InputError, match="audience: no id is a user of toy"):
        sensitive_shares(DATA, [10**9])
