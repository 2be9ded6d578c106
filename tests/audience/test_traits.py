"""Traits: a plain count of users who have each value."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience import explaining
from metaheac_jax.audience.explaining import audience_traits, sensitive_traits
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
    monkeypatch.setattr(explaining, "_BLOCK", 7)
    monkeypatch.setattr(explaining, "MIN_CELL", 1)
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
    monkeypatch.setattr(explaining, "MIN_CELL", 30)
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


def test_sensitive_traits_are_a_plain_count(monkeypatch):
    monkeypatch.setattr(explaining, "_BLOCK", 7)
    monkeypatch.setattr(explaining, "MIN_CELL", 1)
    codes = np.random.default_rng(0).integers(0, 4, (300, 2))  # 3: an empty slot
    data, pool, members = (
        sensitive(codes, ("a", "b", "c")),
        mask(slice(20, 290)),
        np.arange(40, 160),
    )
    traits = sensitive_traits(data, mask(members), pool)
    assert [(own.field, own.value) for own in traits] == [("sex", value) for value in "abc"]
    for code, own in enumerate(traits):
        has = (codes == code).any(axis=1)
        assert (own.audience, own.pool) == (has[members].mean(), has[pool].mean())


def test_few_users_of_a_sensitive_value_are_not_counted_out():
    """Not in the pool, where the value is left out, nor in the audience, where it is reported."""
    women = sensitive(np.where(np.arange(300) < 49, 1, 0))
    assert [own.value for own in sensitive_traits(women, ALL, ALL)] == ["men"]
    women = sensitive(np.where(np.arange(300) < 100, 1, 0))
    for many, share in ((50, 50 / 250), (49, 0)):
        found = sensitive_traits(women, mask(slice(many), slice(100, 300)), ALL)[1]
        assert (found.value, found.pool) == ("women", 1 / 3)
        assert found.audience == pytest.approx(share)
    assert sensitive_traits(DATA, ALL, ALL) == []
