"""Outcomes of audiences: counts by hand, and a plain count."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import dataset

from metaheac_jax.audience.evaluating import audience_outcome, control_outcome
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.table_file import write_table
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
    gains = audience_outcome(frame, data)
    assert gains["tenth"].to_list() == [1, 3, 6, 8]
    assert gains["users"].to_list() == [1, 1, 1, 1]
    assert gains["converts"].to_list() == [1, 1, 0, 0]
    assert gains["lift"].to_list() == [2, 2, 0, 0]
    assert gains["share"].to_list() == [0.5, 1, 1, 1]
    # A user counts once.
    assert audience_outcome(pl.concat([frame, frame]), data).equals(gains)
    assert audience_outcome(audience([2, 5]), data)["lift"].null_count() == 2  # without converts


def test_a_control_group_by_hand():
    """User 9 has not answered. Tenths are of the users who were shown the campaign."""
    data = answered({1: 1, 2: 0, 3: 1, 4: 0, 5: 0}, left_out=(2, 4))
    frame = audience(
        [3, 1, 9, 2, 5, 4], group=["shown", "control", "shown", *["control"] * 2, "shown"]
    )
    found = control_outcome(frame, data)
    assert (found.converts, found.users) == ((1, 1), (2, 3))
    assert audience_outcome(frame, data)["converts"].to_list() == [1, 0]
    assert control_outcome(frame.drop("group"), data) is None
    assert control_outcome(frame.filter(group="shown"), data) is None
    with pytest.raises(InputError, match="group is 'half', expected shown or control"):
        control_outcome(frame.with_columns(group=pl.lit("half")), data)


answers = st.dictionaries(st.integers(0, 58), st.integers(0, 1), max_size=40)
users = st.lists(st.integers(0, 58), unique=True, max_size=40)


@settings(max_examples=50)
@given(st.tuples(users, users), st.tuples(answers, answers), st.sets(st.integers(0, 58)))
def test_equal_to_a_plain_count(audiences, shown, left_out):
    """Each audience is divided on its own."""
    known, frame = answered(*shown, left_out=left_out), audience(*audiences)
    counts = np.zeros((10, 2), int)
    for own, hits in zip(audiences, shown, strict=True):
        labels = [hits[u] for u in own if u in hits]
        for place, label in enumerate(labels):
            counts[10 * place // len(labels)] += 1, label
    if not counts.any():
        with pytest.raises(InputError, match="with audience 1; add the users who were shown it"):
            audience_outcome(frame, known)
        return
    gains, kept = audience_outcome(frame, known), counts[:, 0] > 0
    assert gains["tenth"].to_list() == (1 + np.flatnonzero(kept)).tolist()
    np.testing.assert_array_equal(gains.select("users", "converts"), counts[kept])
    rates = counts[kept, 1] / counts[kept, 0]
    np.testing.assert_allclose(gains["rate"], rates)
    if total := counts[:, 1].sum():
        np.testing.assert_allclose(gains["lift"], rates / (total / counts[:, 0].sum()))
        np.testing.assert_allclose(gains["share"], np.cumsum(counts[kept, 1]) / total)


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
    ids, names = np.array([f"@{u}".encode() for u in range(60)]), np.array([b"=k", b"l"])
    data = replace(answered({1: 1, 2: 0}), user_ids=ids, campaign_ids=names)
    path = tmp_path / "a.csv"
    write_table(path, audience([1, 2], user_id=["@1", "@2"], campaign_id=["=k", "=k"]))
    assert "'=k,'@1" in path.read_text()
    assert audience_outcome(path, data)["converts"].to_list() == [1, 0]
