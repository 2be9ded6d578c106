"""Outcomes of audiences: counts by hand, and intervals from their formulas."""

import math
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import dataset

from metaheac_jax.audience.outcome import audience_outcome, gains_of
from metaheac_jax.audience.retrieve import write_frame
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.errors import InputError

DATA = dataset(users=60, campaigns=2, per_campaign=20, pool=10)


def answered(*campaigns, left_out=()):
    """The data with answers of audiences, a dict of user index to label per campaign.

    Those of ``left_out`` are in no stage, as users of audiences may be. Each campaign has a seed
    that is from no audience.
    """
    rows = [(c, 59, 1, False) for c in range(2)]
    rows += [(c, u, y, True) for c, own in enumerate(campaigns) for u, y in own.items()]

    def examples(rows):
        columns = [np.array(column, int) for column in zip(*rows, strict=True)] or [
            np.empty(0, int)
        ] * 4
        campaign, user, label, audience = columns
        return group_by_campaign(
            campaign, user, label, num_campaigns=2, audience=audience.astype(bool)
        )

    stages = [examples([r for r in rows if (r[1] in left_out) == out]) for out in (False, True)]
    return replace(DATA, stage1=stages[0], left_out=stages[1])


def audience(*campaigns, **columns):
    """Audiences of user indices, best first."""
    ids = [int(DATA.campaign_ids[c]) for c, own in enumerate(campaigns) for _ in own]
    users = [int(DATA.user_ids[u]) for own in campaigns for u in own]
    ranks = [rank + 1 for own in campaigns for rank in range(len(own))]
    kinds = {"campaign_id": pl.Int64, "user_id": pl.Int64, "rank": pl.Int64}
    frame = pl.DataFrame({"campaign_id": ids, "user_id": users, "rank": ranks}, schema=kinds)
    return frame.with_columns(**{name: pl.Series(own) for name, own in columns.items()})


def test_an_outcome_by_hand():
    """Of users 3, 1, 9, 2 and 5, 9 was not shown the campaign; 1 and 3 converted, and 6 did."""
    data = answered({1: 1, 2: 0, 3: 1, 4: 0, 5: 0, 6: 1, 7: 0, 8: 0}, left_out=(2, 4))
    frame = audience([3, 1, 9, 2, 5]).sample(fraction=1, shuffle=True, seed=1)
    outcome = audience_outcome(frame, data)
    rates = outcome.rates.rows()
    assert [own[:4] for own in rates] == [("of the audience", 4, 2, 0.5), ("others", 4, 1, 0.25)]
    tenths = outcome.gains.select("tenth", "converts").rows()
    assert tenths == [(1, 1), (3, 1), (6, 0), (8, 0)]
    # Wilson's interval of two of four.
    z2 = 1.959964**2
    half = math.sqrt(z2 * (1 / 16 + z2 / 64)) / (1 + z2 / 4)
    assert rates[0][4:] == pytest.approx((0.5 - half, 0.5 + half), rel=1e-5)
    again = audience_outcome(pl.concat([frame, frame]), data)  # a user counts once
    assert again.rates.equals(outcome.rates)


answers = st.dictionaries(st.integers(0, 58), st.integers(0, 1), max_size=40)
users = st.lists(st.integers(0, 58), unique=True, max_size=40)


@settings(max_examples=50)
@given(st.tuples(users, users), st.tuples(answers, answers), st.sets(st.integers(0, 58)))
def test_equal_to_a_plain_count(audiences, shown, left_out):
    known, frame = answered(*shown, left_out=left_out), audience(*audiences)
    named = [(own, hits) for own, hits in zip(audiences, shown, strict=True) if own]
    inside = [[hits[u] for u in own if u in hits] for own, hits in named]
    if not any(inside):
        with pytest.raises(InputError, match="with audience 1; add the users who were shown it"):
            audience_outcome(frame, known)
        return
    outside = [[y for u, y in hits.items() if u not in own] for own, hits in named]
    outcome = audience_outcome(frame, known)
    expected = [(sum(map(len, groups)), sum(map(sum, groups))) for groups in (inside, outside)]
    found = outcome.rates.select("shown", "converts").rows()
    assert found == [own for own in expected if own[0]]
    assert outcome.gains["converts"].sum() == sum(map(sum, inside))


def test_what_is_wrong_is_named(tmp_path):
    data, path = answered({1: 1}), tmp_path / "a.csv"
    for frame, words in (
        (audience([1]).with_columns(rank=pl.lit("best")), "line 2: rank is 'best'"),
        (audience([1]).drop("rank"), "has no column 'rank'"),
        (audience([2]), "none of its 1 rows .* audience 1; add the users"),
        (audience([1]).with_columns(campaign_id=pl.lit(7)), "has no campaign '7'"),
        (audience([1]).with_columns(user_id=pl.lit("x")), "line 2: user_id is 'x'"),
    ):
        frame.write_csv(path)
        with pytest.raises(InputError, match=words):
            audience_outcome(path, data)


def test_an_id_that_was_kept_from_a_spreadsheet_is_known(tmp_path):
    ids = np.array([f"@{u}".encode() for u in range(60)])
    data = replace(answered({1: 1, 2: 0}), user_ids=ids)
    path, frame = tmp_path / "a.csv", audience([1, 2], user_id=["@1", "@2"])
    write_frame(path, frame)
    assert "'@1" in path.read_text()
    assert audience_outcome(path, data).rates.row(0)[1:3] == (2, 1)


def test_gains_by_hand():
    """Pools of 40 and 19 users: tenths of 4, and of 2 but the fifth, ninth, ... of 1 or 2."""
    labels = [(np.arange(40) < 9).astype(int), (np.arange(19) % 3 == 0).astype(int)]
    gains = gains_of(labels)
    tenths = [10 * np.arange(len(own)) // len(own) for own in labels]
    sizes = sum(np.bincount(own, minlength=10) for own in tenths)
    converts = sum(np.bincount(t, y, minlength=10) for t, y in zip(tenths, labels, strict=True))
    assert gains["tenth"].to_list() == list(range(1, 11))
    for name, expected in (
        ("users", sizes),
        ("converts", converts),
        ("rate", converts / sizes),
        ("lift", converts / sizes / (converts.sum() / 59)),
        ("share", np.cumsum(converts) / converts.sum()),
    ):
        np.testing.assert_allclose(gains[name], expected)


def test_gains_of_small_groups_and_without_converts():
    gains = gains_of([np.array([1, 0, 1, 0]), np.zeros(0, int)])
    assert gains.select("tenth", "users").rows() == [(1, 1), (3, 1), (6, 1), (8, 1)]
    assert gains["share"][-1] == 1
    assert gains_of([np.zeros(3, int)])["lift"].null_count() == 3
