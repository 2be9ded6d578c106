"""Campaigns from columns of users: equal to a plain reading of the cells."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from metaheac_jax.data.dataset import NON_SEEDS_PER_SEED
from metaheac_jax.data.sources import column_campaigns
from metaheac_jax.data.sources.column_campaigns import columns_to_campaigns, stages_of
from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import prepare
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Vocabulary

VOTE, TOOLS = Column("vote"), Column("tools", slots=2, separator=";")
SCHEMA = TableSchema(user=(Column("city"),), campaigns_from=(VOTE, TOOLS), min_seeds=20)


def people(num_users=400, seed=0):
    """Some did not answer; tools are lists, of which some are longer than their slots."""
    rng = np.random.default_rng(seed)
    tools = [rng.choice([*"pqrs"], rng.integers(0, 4), replace=False) for _ in range(num_users)]
    votes, often = ["left", "right", "é", None], [0.5, 0.4, 0.02, 0.08]
    return {
        "user_id": [f"u{i}" for i in range(num_users)],
        "city": rng.choice(["Rome", "Oslo"], num_users).tolist(),
        "vote": rng.choice(votes, num_users, p=often).tolist(),
        "tools": [";".join(own) for own in tools],
    }


def write(folder, users):
    path = folder / "people.csv"
    pl.DataFrame(users).write_csv(path)
    return path


def plain(users):
    """By campaign, the seeds and non-seeds."""
    expected = {}
    for name in ("vote", "tools"):
        answers = [set((cell or "").split(";")) - {""} for cell in users[name]]
        for value in set().union(*answers):
            seeds = {u for u, own in enumerate(answers) if value in own}
            others = {u for u, own in enumerate(answers) if own and value not in own}
            if min(len(seeds), len(others)) >= 20:
                expected[f"{name}={value}".encode()] = seeds, others
    return expected


def test_lists_that_are_described_as_single_values(tmp_path):
    users = people() | {"tools": [["p"]] * 400}
    path = tmp_path / "people.parquet"
    pl.DataFrame(users).write_parquet(path)
    words = "column 'tools' has lists; give a field of users \"slots\""
    with pytest.raises(InputError, match=words):
        columns_to_campaigns(
            TableFile(path, []), replace(SCHEMA, campaigns_from=(Column("tools"),))
        )
    path = write(tmp_path, people())
    plain_lists = replace(SCHEMA, campaigns_from=(Column("tools", slots=3),))
    with pytest.raises(InputError, match="'tools' has text, not lists; give the field a"):
        columns_to_campaigns(TableFile(path, []), plain_lists)


def test_campaigns_keep_the_spelling_of_earlier_data(tmp_path):
    """Votes 1 to 3 in a column of floats, of which an earlier version wrote 1.0."""
    votes = [float(n % 3 + 1) for n in range(400)]
    users = people() | {"vote": pl.Series(votes, dtype=pl.Float64)}
    source = tmp_path / "people.parquet"
    pl.DataFrame(users).write_parquet(source)
    now = prepare(source, tmp_path / "now", schema=SCHEMA)
    assert {b"vote=1", b"vote=2", b"vote=3"} < set(now.campaign_ids.tolist())
    [field] = [n for n, own in enumerate(now.schema.fields) if own.name == "value"]
    values = list(now.vocabulary.values)
    pointed = [f"{own}.0" if own.isdecimal() else own for own in values[field].tolist()]
    values[field] = np.array(sorted(pointed))
    extends = (now.schema, Vocabulary(tuple(values)))
    later = prepare(source, tmp_path / "later", schema=SCHEMA, extends=extends)
    assert {b"vote=1.0", b"vote=2.0", b"vote=3.0"} < set(later.campaign_ids.tolist())


def test_equal_to_a_plain_reading(tmp_path):
    users = people()
    data = prepare(write(tmp_path, users), tmp_path / "data", schema=SCHEMA)
    expected = plain(users)
    assert b"vote=\xc3\xa9" not in expected  # too few
    assert data.name == "people"
    assert data.campaign_ids.tolist() == sorted(expected)
    assert [field.name for field in data.schema.campaign] == ["column", "value"]
    # The answers are no inputs.
    assert [field.name for field in data.schema.user] == ["city"]
    held_out = set(data.stage2.user.tolist())
    assert not held_out & set(data.stage1.user.tolist())
    assert 0.25 < len(held_out) / 400 < 0.35
    for c, key in enumerate(data.campaign_ids):
        name, value = key.decode().split("=")
        rows = data.vocabulary.encode_attributes(data.schema, {"column": name, "value": value})
        assert data.campaign_rows[c].tolist() == rows.tolist()
        seeds, others = expected[key]
        for stage, own in ((data.stage1, seeds | others), (data.stage2, held_out)):
            label, user = stage.label[stage.of(c)], stage.user[stage.of(c)].tolist()
            assert len(user) == len(set(user))
            assert set(user) <= own
            assert {u for u, y in zip(user, label, strict=True) if y} == seeds & set(user)
        for stage in (data.stage1, data.stage2):  # seeds do not stay first
            assert (np.diff(stage.label[stage.of(c)]) > 0).any()
        both = [*data.stage1.user[data.stage1.of(c)], *data.stage2.user[data.stage2.of(c)]]
        assert set(both) == seeds | others
    again = prepare(write(tmp_path, users), tmp_path / "again", schema=SCHEMA)
    np.testing.assert_array_equal(again.stage1.user, data.stage1.user)


@pytest.mark.parametrize("kind", [pl.Int64, pl.Float64])
def test_whole_numbers_make_the_same_campaigns_as_floats(tmp_path, kind):
    users = pl.DataFrame(people()).with_columns(pl.Series("vote", [1, 2] * 200, dtype=kind))
    users.write_parquet(tmp_path / "people.parquet")
    schema = TableSchema((Column("city"),), campaigns_from=(VOTE,))
    data = prepare(tmp_path / "people.parquet", tmp_path / "data", schema=schema)
    assert data.campaign_ids.tolist() == [b"vote=1", b"vote=2"]
    assert data.vocabulary.values[2].tolist() == ["1", "2"]


def test_nan_is_no_answer(tmp_path):
    votes = [float("nan"), 1.0, 2.0, 2.5] * 100
    pl.DataFrame(people() | {"vote": votes}).write_parquet(tmp_path / "people.parquet")
    schema = TableSchema((Column("city"),), campaigns_from=(VOTE,))
    data = prepare(tmp_path / "people.parquet", tmp_path / "data", schema=schema)
    assert data.campaign_ids.tolist() == [b"vote=1", b"vote=2", b"vote=2.5"]
    for stage in (data.stage1, data.stage2):
        assert (stage.user % 4 != 0).all()


def test_rare_answers_draw_twenty_others_per_seed(tmp_path):
    users = people()
    users["vote"] = ["yes"] * 5 + ["no"] * 395
    schema = TableSchema(user=(Column("city"),), campaigns_from=(VOTE,), min_seeds=5)
    file = TableFile(write(tmp_path, users), ["vote"])
    key, _, (campaign, user, label) = columns_to_campaigns(file, schema)
    assert key.tolist() == [b"vote=no", b"vote=yes"]
    yes = campaign == 1
    assert label[yes].sum() == 5
    assert yes.sum() == 5 + NON_SEEDS_PER_SEED * 5
    assert len(set(user[yes].tolist())) == yes.sum()
    assert user[yes].max() > 200  # drawn from all, and not the first


def test_a_value_that_nearly_everybody_has_makes_no_campaign(tmp_path):
    users = people()
    users["vote"] = ["no"] * 3 + ["yes"] * 397
    schema = TableSchema(user=(Column("city"),), campaigns_from=(VOTE, TOOLS), min_seeds=10)
    file = TableFile(write(tmp_path, users), ["vote", "tools"])
    ids = columns_to_campaigns(file, schema).ids.tolist()
    assert ids == [f"tools={tool}".encode() for tool in "pqrs"]


def test_each_campaign_draws_non_seeds_of_its_own(tmp_path):
    """Also if another has the same seeds."""
    users = people()
    users["vote"] = users["again"] = ["yes"] * 5 + ["no"] * 395
    columns = VOTE, Column("again")
    schema = TableSchema(user=(Column("city"),), campaigns_from=columns, min_seeds=5)
    file = TableFile(write(tmp_path, users), ["vote", "again"])
    key, _, (campaign, user, label) = columns_to_campaigns(file, schema)
    assert key.tolist() == [b"again=no", b"again=yes", b"vote=no", b"vote=yes"]
    for value, same in ((1, True), (0, False)):
        one, other = (user[(campaign == c) & (label == value)].tolist() for c in (1, 3))
        assert (one == other) == same


def test_users_keep_their_stage_when_the_file_changes(tmp_path):
    """Otherwise tomorrow's stage 2 would have users whom today's model was trained on."""
    users = pl.DataFrame(people())
    today = prepare(write(tmp_path, users), tmp_path / "today", schema=SCHEMA)
    changed = users.filter(pl.col("user_id") != "u7").sample(fraction=1, shuffle=True, seed=1)
    later = prepare(write(tmp_path, changed), tmp_path / "later", schema=SCHEMA)
    stages = [
        [set(data.user_ids[stage.user].tolist()) for stage in (data.stage1, data.stage2)]
        for data in (today, later)
    ]
    assert not stages[0][0] & stages[1][1]
    assert not stages[0][1] & stages[1][0]
    ids = np.arange(100_000)
    assert (stages_of(ids) == stages_of(ids.astype("S6"))).all()  # ids that became text
    assert 0.295 < (stages_of(ids) == 2).mean() < 0.305


def test_users_without_ids_have_numbers(tmp_path):
    users = people(100)
    del users["user_id"]
    schema = TableSchema((Column("city"),), user_id="", campaigns_from=(VOTE,), min_seeds=10)
    data = prepare(write(tmp_path, users), tmp_path / "data", schema=schema)
    assert data.user_ids.tolist() == list(range(1, 101))


def test_what_makes_no_campaign_is_refused(tmp_path):
    users = people()
    path = write(tmp_path, users)
    few = TableSchema(user=(Column("city"),), campaigns_from=(VOTE,), min_seeds=250)
    with pytest.raises(
        InputError, match="no value of vote has at least 250 users with it and as many"
    ):
        prepare(path, tmp_path / "data", schema=few)
    wrong = TableSchema(user=(Column("city"),), campaigns_from=(Column("votes"),))
    with pytest.raises(InputError, match="has no column 'votes'"):
        prepare(path, tmp_path / "data", schema=wrong)
    users["vote"] = [f"{'long ' * 20}{i % 2}" for i in range(400)]
    with pytest.raises(InputError, match="two values of 'vote' begin with 'vote=long long"):
        prepare(write(tmp_path, users), tmp_path / "data", schema=SCHEMA)
    assert not (tmp_path / "data").exists()


def test_campaigns_come_from_a_file_or_from_columns(tmp_path):
    write(tmp_path, people()).rename(tmp_path / "users.csv")
    (tmp_path / "campaigns.csv").write_text("campaign_id,topic\n1,sport\n")
    with pytest.raises(InputError, match=r"has campaigns\.csv, but the schema makes campaigns"):
        prepare(tmp_path, tmp_path / "data", schema=SCHEMA)
    (tmp_path / "campaigns.csv").unlink()
    assert prepare(tmp_path, tmp_path / "data", schema=SCHEMA).num_campaigns > 3
    other = TableSchema((Column("city"),), (Column("topic"),))
    with pytest.raises(InputError, match=r"has no campaigns\.parquet.* columns in .campaigns_from"):
        prepare(tmp_path, tmp_path / "data", schema=other)


def test_the_draw_does_not_depend_on_other_campaigns(tmp_path, monkeypatch):
    """A survey with a column more keeps the examples of the others."""
    monkeypatch.setattr(column_campaigns, "NON_SEEDS_PER_SEED", 1)
    file = TableFile(write(tmp_path, people()), ["vote", "tools"])
    one = TableSchema((Column("city"),), campaigns_from=(TOOLS,), min_seeds=20)
    few, many = columns_to_campaigns(file, one), columns_to_campaigns(file, SCHEMA)
    same = many.examples[:, np.char.startswith(many.ids, b"tools")[many.examples[0]]]
    np.testing.assert_array_equal(few.examples[1:], same[1:])


def test_the_draw_does_not_depend_on_the_order_of_unique_values(tmp_path, monkeypatch):
    """Polars promises none."""
    monkeypatch.setattr(column_campaigns, "NON_SEEDS_PER_SEED", 1)
    file = TableFile(write(tmp_path, people()), ["vote", "tools"])
    expected = columns_to_campaigns(file, SCHEMA).examples
    unique = pl.Series.unique
    monkeypatch.setattr(pl.Series, "unique", lambda series: unique(series).reverse())
    np.testing.assert_array_equal(columns_to_campaigns(file, SCHEMA).examples, expected)
