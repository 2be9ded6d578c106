"""Traits: a plain count of users who have each value."""

from dataclasses import replace

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.audience import traits
from metaheac_jax.audience.traits import audience_traits
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Schema

DATA = dataset(users=300, campaigns=3, per_campaign=40, pool=30)


def plain(ids):
    """For each field and value, how many of these users have it."""
    counts = {}
    for user in np.flatnonzero(np.isin(DATA.user_key, ids)):
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
    audience, seeds = DATA.user_key[40:160], DATA.user_key[:30]
    found = audience_traits(DATA, [*audience, 10**9], seeds, min_cell=1)
    a, s, p = plain(audience), plain(seeds), plain(DATA.user_key)
    assert {(t.field, t.value) for t in found} == set(a)
    for t in found:
        key = t.field, t.value
        assert t.num_audience == a[key]
        assert t.audience == a[key] / 120
        assert t.seeds == s.get(key, 0) / 30
        assert t.pool == p[key] / 300
    lifts = [t.lift for t in found]
    assert lifts == sorted(lifts, reverse=True)


def test_small_cells_are_left_out():
    audience = DATA.user_key[:100]
    counts = plain(audience)
    found = audience_traits(DATA, audience, audience, min_cell=30)
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
    found = audience_traits(data, DATA.user_key, DATA.user_key, min_cell=1)
    assert {t.value for t in found if t.field == "gender"} == {"(missing)", "-inf to 2.5"}


@pytest.mark.parametrize(("audience", "seeds"), [([10**9], [3]), ([3], [10**9])])
def test_ids_of_nobody_are_refused(audience, seeds):
    with pytest.raises(InputError, match="no id is a user of 'toy'"):
        audience_traits(DATA, audience, seeds)
