"""Tables of one's own: equal to a plain reading, in every format; one line for a bad row."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_world import SCHEMA, world, write

from metaheac_jax.audience.retrieve import expand
from metaheac_jax.audience.traits import audience_traits
from metaheac_jax.data.sources import table_file, tables
from metaheac_jax.data.sources.table_schema import Column, TableSchema
from metaheac_jax.data.sources.tables import prepare
from metaheac_jax.data.storage import content_digest, open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods.similarity import cosine
from metaheac_jax.model import load, save
from metaheac_jax.schema import UNSEEN


def plain(vocabulary, users, edges):
    """The table rows of users, read one by one."""
    rows, offsets = [], vocabulary.offsets
    values = [list(v) for v in vocabulary.values]
    for i in range(len(users["user_id"])):
        row = [offsets[0] + values[0].index(users["city"][i] or "")]
        income = users["income"][i]
        bucket = -1 if income is None else sum(income >= edge for edge in edges)
        row.append(offsets[1] + values[1].index(bucket))
        likes = users["likes"][i][:3]
        row += [offsets[2] + values[2].index(like) for like in likes]
        rows.append(row + [vocabulary.num_rows] * (3 - len(likes)))
    return np.array(rows)


def test_a_folder_of_parquet_files_is_a_table(tmp_path):
    """As Spark writes it, with an empty file and files for itself."""
    whole = write(tmp_path / "whole", *world(), "parquet")
    parts = tmp_path / "parts"
    for file in whole.iterdir():
        folder, frame = parts / file.name, pl.read_parquet(file)
        folder.mkdir(parents=True)
        for number, rows in enumerate((frame[:3], frame[:0], frame[3:])):
            rows.write_parquet(folder / f"part-{number}.parquet")
        (folder / "_SUCCESS").touch()
        for name in ("_metadata.parquet", ".part-0.parquet"):
            (folder / name).write_bytes(b"no table")
    schema = TableSchema((*SCHEMA.user[:2], Column("likes", slots=3)), SCHEMA.campaign)
    data = [prepare(of, tmp_path / f"{of.name}-data", schema=schema) for of in (whole, parts)]
    assert content_digest(data[0]) == content_digest(data[1])
    users = pl.read_parquet(whole / "users.parquet")
    users[:1].write_parquet(parts / "users.parquet" / "part-9.parquet")
    with pytest.raises(InputError, match=r"users\.parquet/part-9\.parquet: row 1: user_id .* earl"):
        prepare(parts, tmp_path / "again", schema=schema)
    for changed, words in (
        (
            users[:1].with_columns(pl.col("income").cast(pl.Float32)),
            "'income' is Float32, but in p",
        ),
        (users[:1].drop("income"), "'income' is missing, but in part-0"),
        (users[:1].with_columns(new=1), "'new' is Int32, but in part-0.parquet it is missing; wr"),
    ):
        changed.write_parquet(parts / "users.parquet" / "part-9.parquet")
        with pytest.raises(InputError, match=rf"part-9\.parquet: column {words}"):
            prepare(parts, tmp_path / "again", schema=schema)
    for part in (parts / "users.parquet").glob("part*"):
        part.unlink()
    with pytest.raises(InputError, match=r"users\.parquet: has no file NAME\.parquet"):
        prepare(parts, tmp_path / "again", schema=schema)


@pytest.mark.parametrize("form", ["csv", "csv.gz", "parquet"])
def test_equal_to_a_plain_reading(tmp_path, form, monkeypatch):
    monkeypatch.setattr(table_file, "ROWS_AT_A_TIME", 7)  # many blocks
    users, campaigns, examples = world()
    source = write(tmp_path / "source", users, campaigns, examples, form)
    schema = SCHEMA
    if form == "parquet":
        with pytest.raises(InputError, match="column 'likes' has lists; remove the field's"):
            prepare(source, tmp_path / "data", schema=SCHEMA)
        schema = TableSchema((*SCHEMA.user[:2], Column("likes", slots=3)), SCHEMA.campaign)
    data = prepare(source, tmp_path / "data", schema=schema)
    edges = data.schema.user[1].edges
    known = sorted(x for x in users["income"] if x is not None)
    np.testing.assert_allclose(edges, np.quantile(known, [0.25, 0.5, 0.75]))
    expected = plain(data.vocabulary, users, edges)
    np.testing.assert_array_equal(data.user_rows, expected)
    assert [key.decode() for key in data.user_ids] == users["user_id"]
    assert [key.decode() for key in data.campaign_ids] == campaigns["campaign_id"]
    for c, key in enumerate(campaigns["campaign_id"]):
        for stage, number in ((data.stage1, 1), (data.stage2, 2)):
            of = stage.of(c)
            got = [
                (users["user_id"][u], int(y))
                for u, y in zip(stage.user[of], stage.label[of], strict=True)
            ]
            own = [(u, y) for k, u, y, s in examples if (k, s) == (key, number)]
            assert sorted(got) == sorted(own)


@settings(max_examples=25)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=9, unique=True), st.booleans())
def test_ids_are_whole_numbers_if_all_are(tmp_path_factory, ids, with_text):
    folder = tmp_path_factory.mktemp("ids")
    text = [*map(str, ids), *(["x1"] if with_text else [])]
    pl.DataFrame({"user_id": text, "a": ["1"] * len(text)}).write_csv(folder / "users.csv")
    pl.DataFrame({"campaign_id": [1], "b": ["z"]}).write_csv(folder / "campaigns.csv")
    pl.DataFrame({"campaign_id": [1], "user_id": text[:1], "label": [0]}).write_csv(
        folder / "examples.csv"
    )
    schema = TableSchema((Column("a"),), (Column("b"),))
    data = prepare(folder, folder / "data", schema=schema)
    assert data.user_ids.dtype.kind == ("S" if with_text else "i")
    assert data.user_ids.tolist() == ([t.encode() for t in text] if with_text else ids)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_sensitive_field_is_stored_apart_from_the_model(tmp_path, form, monkeypatch):
    monkeypatch.setattr(table_file, "ROWS_AT_A_TIME", 7)
    users, campaigns, examples = world()
    source = write(tmp_path / "source", users, campaigns, examples, form)
    separator = ";" if form == "csv" else ""
    city, income, likes = SCHEMA.user[0], SCHEMA.user[1], Column("likes", 3, separator)
    plain = prepare(source, tmp_path / "a", schema=TableSchema((city,), SCHEMA.campaign))
    sensitive = (replace(income, sensitive=True), replace(likes, sensitive=True))
    schema = TableSchema((sensitive[0], city, sensitive[1]), SCHEMA.campaign, min_count=3)
    data = prepare(source, tmp_path / "b", schema=replace(schema, min_count=1))
    # What a model sees is what it would be if the file did not have these columns.
    assert data.schema == plain.schema
    assert data.layout == plain.layout
    assert data.num_rows == plain.num_rows
    np.testing.assert_array_equal(data.user_rows, plain.user_rows)
    assert list(data.sensitive) == ["income", "likes"]
    incomes, liked = data.sensitive["income"], data.sensitive["likes"]
    assert isinstance(liked.codes, np.memmap)
    assert incomes.values[0] == "(missing)"
    for u in range(80):
        income = users["income"][u]
        shown = incomes.values[incomes.codes[u, 0]]
        low, high = (None, None) if income is None else map(float, shown.split(" to "))
        assert shown == "(missing)" if income is None else low <= income < high
        codes = liked.codes[u]
        assert [liked.values[c] for c in codes if c < len(liked.values)] == users["likes"][u][:3]
    # A value that is rare is reported all the same.
    few = prepare(source, tmp_path / "c", schema=schema)
    assert few.sensitive["likes"].values.tolist() == liked.values.tolist()


def test_a_model_needs_a_field_that_is_not_sensitive(tmp_path):
    source = write(tmp_path / "source", *world())
    schema = TableSchema((Column("city", sensitive=True),), SCHEMA.campaign)
    with pytest.raises(InputError, match="at least one user field"):
        prepare(source, tmp_path / "data", schema=schema)
    assert not (tmp_path / "data").exists()


def test_rare_values_share_a_row_with_unseen_ones(tmp_path):
    users, campaigns, examples = world()
    users["city"][:3] = ["rare1", "rare2", "rare1"]
    source = write(tmp_path / "source", users, campaigns, examples)
    schema = TableSchema(SCHEMA.user, SCHEMA.campaign, min_count=3)
    data = prepare(source, tmp_path / "data", schema=schema)
    cities = data.vocabulary.values[0].tolist()
    assert UNSEEN in cities
    assert not {"rare1", "rare2"} & set(cities)
    row = data.vocabulary.encode(0, [UNSEEN])[0]
    assert (np.asarray(data.user_rows)[:3, 0] == row).all()
    np.testing.assert_array_equal(data.vocabulary.encode(0, ["never seen"]), row)


def test_from_text_ids_to_an_audience_and_back_from_disk(tmp_path):
    users, campaigns, examples = world()
    data = prepare(
        write(tmp_path / "source", users, campaigns, examples), tmp_path / "data", schema=SCHEMA
    )
    method = cosine()
    save(method.fit(data), tmp_path / "model")
    general = load(tmp_path / "model")
    assert general.schema == data.schema
    assert general.campaigns == ("k0", "k1", "k2", "k3")
    seeds = users["user_id"][:5]
    campaign = data.new_campaign([*seeds, "nobody"], {"topic": "food", "budget": 2.5})
    assert len(campaign.unmatched) == 1
    assert campaign.rows.tolist() == data.campaign_rows[3].tolist()  # food, and the same bucket
    [model] = method.customise(general, data, [campaign])
    audience = expand(model, data, size=10, exclude=users["user_id"][5:7])
    assert not set(audience.user_ids) & set(users["user_id"][:7])
    audience.write(tmp_path / "audience.csv")
    assert pl.read_csv(tmp_path / "audience.csv")["user_id"].to_list() == list(audience.user_ids)
    for bad in ([1.5], ["x" * 65], [""], [None]):
        with pytest.raises(InputError, match="user ids: expected text"):
            data.new_campaign(bad, {"topic": "food", "budget": 1})
    with pytest.raises(InputError, match="budget is 'much', expected a number"):
        data.new_campaign(seeds, {"topic": "food", "budget": "much"})


def test_the_attributes_of_a_campaign_in_the_table_give_its_rows(tmp_path):
    users, campaigns, examples = world()
    campaigns["price"], campaigns["brand"] = [1.0, 1e-5, None, float("nan")], ["a", "1.0", None, ""]
    campaigns["live"] = [True, False, None, True]
    source = write(tmp_path / "source", users, campaigns, examples, "parquet")
    names = Column("price"), Column("brand", hash_rows=1000), Column("live")
    schema = TableSchema((SCHEMA.user[0],), names)
    data = prepare(source, tmp_path / "data", schema=schema)
    for c, rows in enumerate(data.campaign_rows.tolist()):
        attributes = {column.name: campaigns[column.name][c] for column in names}
        assert data.vocabulary.encode_attributes(data.schema, attributes).tolist() == rows


def replaced(rows, number, **changes):
    """Rows of examples with one changed."""
    names = ("campaign_id", "user_id", "label", "stage")
    row = dict(zip(names, rows[number], strict=True)) | changes
    return [*rows[:number], tuple(row.values()), *rows[number + 1 :]]


@pytest.mark.parametrize(
    ("user_id", "words"),
    [
        ("again", "line 6: user_id é... occurs on an earlier row"),
        ("x" * 65, "line 6: user_id must have 1 to 64 bytes"),
        (None, "line 6: no user_id"),
        ("ann ", "line 6: user_id is 'ann ', expected no white space before or after it; fix"),
    ],
)
def test_a_bad_user_is_named(tmp_path, user_id, words):
    users, campaigns, examples = world()
    users["user_id"][4] = users["user_id"][1] if user_id == "again" else user_id
    source = write(tmp_path / "source", users, campaigns, examples)
    with pytest.raises(InputError, match=words):
        prepare(source, tmp_path / "data", schema=SCHEMA)
    assert not (tmp_path / "data").exists()


def test_examples_of_unknown_users_are_left_out_if_asked(tmp_path, monkeypatch):
    """As if their rows were not in the file; other faults keep their lines."""
    monkeypatch.setattr(table_file, "ROWS_AT_A_TIME", 7)
    users, campaigns, examples = world()
    without = write(tmp_path / "without", users, campaigns, [*examples[:2], *examples[3:]])
    expected = prepare(without, tmp_path / "expected", schema=SCHEMA)
    gone = replaced(examples, 2, user_id="zz")
    source = write(tmp_path / "source", users, campaigns, gone)
    words = f"examples.csv: 1 of {len(examples)} examples are of users who are not in the file of"
    with pytest.warns(UserWarning, match=words):
        data = prepare(source, tmp_path / "data", schema=SCHEMA, skip_unknown_users=True)
    for own, other in ((data.stage1, expected.stage1), (data.stage2, expected.stage2)):
        np.testing.assert_array_equal(own.user, other.user)
        np.testing.assert_array_equal(own.label, other.label)
        np.testing.assert_array_equal(own.offsets, other.offsets)

    source = write(tmp_path / "twice", users, campaigns, [*gone, gone[5]])
    words = f"line {len(gone) + 2}: the user is already an example of this campaign"
    with pytest.warns(UserWarning, match="left out"), pytest.raises(InputError, match=words):
        prepare(source, tmp_path / "data", schema=SCHEMA, skip_unknown_users=True)
    source = write(
        tmp_path / "all",
        users,
        campaigns,
        [replaced([row], 0, user_id="zz")[0] for row in examples],
    )
    with pytest.raises(InputError, match="file of users; check that both have the same ids"):
        prepare(source, tmp_path / "data", schema=SCHEMA, skip_unknown_users=True)


def test_a_campaign_of_seeds_alone_gets_random_users_as_non_seeds(tmp_path, monkeypatch):
    """In each stage at most as many per seed as a new campaign gets, and each user once."""
    monkeypatch.setattr(tables, "NON_SEEDS_PER_SEED", 3)
    users, campaigns, examples = world(num_users=200)
    mixed = prepare(
        write(tmp_path / "mixed", users, campaigns, examples), tmp_path / "m", schema=SCHEMA
    )
    alone = [row for row in examples if row[0] not in ("k0", "k2") or row[2] == 1]
    alone = [row for row in alone if row[0] != "k2" or row[3] == 1]
    source = write(tmp_path / "alone", users, campaigns, alone)
    num_seeds = sum(row[0] in ("k0", "k2") for row in alone)
    words = f"examples.csv: 2 campaigns have seeds alone; {3 * num_seeds} random users, at most 3 "
    with pytest.warns(UserWarning, match=words):
        data = prepare(source, tmp_path / "a", schema=SCHEMA)
    for c in range(4):
        found = []
        for stage, before in ((data.stage1, mixed.stage1), (data.stage2, mixed.stage2)):
            user, label = stage.user[stage.of(c)], stage.label[stage.of(c)]
            given, given_label = before.user[before.of(c)], before.label[before.of(c)]
            if c in (1, 3):
                assert {*zip(user, label, strict=True)} == {*zip(given, given_label, strict=True)}
                continue
            seeds = given[given_label == 1] if c == 0 or stage is data.stage1 else given[:0]
            assert sorted(user[label == 1]) == sorted(seeds)
            assert (label == 0).sum() == 3 * len(seeds)
            found += user.tolist()
        assert len({*found}) == len(found)
    # As the non-seeds of a new campaign; a small pool has fewer.
    own = data.stage1.user[data.stage1.of(2)][data.stage1.label[data.stage1.of(2)] == 0]
    attributes = {"topic": "sport", "budget": 2.0}
    ids = [row[1] for row in alone if row[0] == "k2"]
    new = data.new_campaign(ids, attributes, non_seeds_per_seed=3)
    assert sorted(own) == sorted(new.users[new.labels == 0])
    monkeypatch.setattr(tables, "NON_SEEDS_PER_SEED", 200)
    with pytest.warns(UserWarning, match=rf"; {2 * 200 - num_seeds} random users"):
        prepare(source, tmp_path / "b", schema=SCHEMA)


def test_commas_are_asked_for_where_they_are_missing(tmp_path):
    source = write(tmp_path / "source", *world())
    file = source / "users.csv"
    file.write_text(file.read_text().replace(",", "\t"))
    words = (
        r"users\.csv: has no column 'user_id'; it has user_id\tcity\tincome\tlikes; its values mu"
    )
    with pytest.raises(InputError, match=words):
        prepare(source, tmp_path / "data", schema=SCHEMA)
    file.unlink()
    pl.DataFrame({"person": [1, 2]}).write_parquet(source / "users.parquet")
    with pytest.raises(InputError, match=r"has no column 'user_id'; it has person$"):
        prepare(source, tmp_path / "data", schema=SCHEMA)


def test_a_list_in_text_needs_a_separator(tmp_path):
    source = write(tmp_path / "source", *world())
    schema = replace(SCHEMA, user=(*SCHEMA.user[:2], Column("likes", slots=3)))
    with pytest.raises(
        InputError, match="column 'likes' has text, not lists; give the field a \"sepa"
    ):
        prepare(source, tmp_path / "data", schema=schema)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"campaign_id": "k9"}, "line 4: unknown campaign_id k9"),
        ({"user_id": "zz"}, "line 4: unknown user_id zz"),
        ({"label": 2}, "line 4: label is '2', expected 0 or 1"),
        ({"stage": 3}, "line 4: stage is '3', expected 1 or 2"),
    ],
)
def test_a_bad_example_is_named(tmp_path, changes, words):
    users, campaigns, examples = world()
    source = write(tmp_path / "source", users, campaigns, replaced(examples, 2, **changes))
    with pytest.raises(InputError, match=words):
        prepare(source, tmp_path / "data", schema=SCHEMA)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("users", "words"),
    [
        ([2.0, 1.5], "examples.parquet: row 1: user_id is 2.0, expected a whole number"),
        (["1", "02"], "examples.parquet: row 2: user_id is '02', expected a whole number"),
        (["1", "ann"], "examples.parquet: row 2: user_id is 'ann', expected a whole number"),
    ],
)
def test_an_example_of_a_user_who_is_no_whole_number_is_named(tmp_path, users, words):
    source = tmp_path / "source"
    source.mkdir()
    tables = {
        "users": {"user_id": [1, 2], "a": ["x", "y"]},
        "campaigns": {"campaign_id": ["k"], "b": ["z"]},
        "examples": {"campaign_id": ["k", "k"], "user_id": users, "label": [1, 0]},
    }
    for name, columns in tables.items():
        pl.DataFrame(columns).write_parquet(source / f"{name}.parquet")
    with pytest.raises(InputError, match=words):
        prepare(source, tmp_path / "data", schema=TableSchema((Column("a"),), (Column("b"),)))
    assert not (tmp_path / "data").exists()


def test_an_example_or_a_campaign_that_occurs_twice_is_named(tmp_path):
    users, campaigns, examples = world()
    campaign, user, label, _ = examples[0]
    again = write(tmp_path / "a", users, campaigns, [*examples, (campaign, user, 1 - label, 2)])
    with pytest.raises(
        InputError, match="line 162: the user is already an example of this campaign"
    ):
        prepare(again, tmp_path / "data", schema=SCHEMA)
    campaigns["campaign_id"][1] = "k0"
    twice = write(tmp_path / "b", users, campaigns, examples)
    with pytest.raises(InputError, match="line 3: campaign_id k0 occurs on an earlier row"):
        prepare(twice, tmp_path / "data", schema=SCHEMA)


@pytest.mark.parametrize("income", ["much", "inf", "1,5"])
def test_text_among_numbers_is_named(tmp_path, income):
    users, campaigns, examples = world()
    users["income"] = [None if x is None else str(x) for x in users["income"]]
    users["income"][4] = income
    source = write(tmp_path / "source", users, campaigns, examples)
    with pytest.raises(InputError, match=r"users\.csv: line 6: income is not a number"):
        prepare(source, tmp_path / "data", schema=SCHEMA)


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_missing_texts_are_of_fields_and_not_of_labels(tmp_path, ending):
    users, campaigns, examples = world()
    numbers = []
    for frame, name in ((campaigns, "campaign_id"), (users, "user_id")):  # 0 and 1 are ids, too
        numbers.append({own: place for place, own in enumerate(frame[name])})
        frame[name] = list(numbers[-1].values())
    examples = [(numbers[0][c], numbers[1][u], *rest) for c, u, *rest in examples]
    source = write(tmp_path / "source", users, campaigns, examples, ending)
    schema = replace(SCHEMA, user=SCHEMA.user[:1])
    plain = prepare(source, tmp_path / "plain", schema=schema)
    data = prepare(source, tmp_path / "data", schema=replace(schema, missing=("0", "1")))
    np.testing.assert_array_equal(data.stage1.label, plain.stage1.label)
    np.testing.assert_array_equal(data.stage1.user, plain.stage1.user)


def test_missing_files_and_columns_are_named(tmp_path):
    source = write(tmp_path / "source", *world())
    wrong = TableSchema((Column("age"),), SCHEMA.campaign)
    with pytest.raises(InputError, match="has no column 'age'; it has user_id, city"):
        prepare(source, tmp_path / "data", schema=wrong)
    (source / "users.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="has both users"):
        prepare(source, tmp_path / "data", schema=SCHEMA)
    (source / "users.csv").unlink()
    with pytest.raises(InputError, match=r"users\.parquet: cannot be read"):
        prepare(source, tmp_path / "data", schema=SCHEMA)
    (source / "users.parquet").unlink()
    with pytest.raises(InputError, match=r"has no users\.parquet, \.csv or"):
        prepare(source, tmp_path / "data", schema=SCHEMA)


def test_a_file_without_users_is_named(tmp_path):
    source = write(tmp_path / "source", *world())
    (source / "users.csv").write_text("user_id,city,income,likes\n")
    with pytest.raises(InputError, match=r"users\.csv: has no users; add a row per user"):
        prepare(source, tmp_path / "data", schema=SCHEMA)


# Data that go on --------------------------------------------------------------------------------


def day(number):
    """Two days of one pool: users, values and campaigns that are new on the second."""
    users, campaigns, examples = world(seed=number)
    if number:
        users["city"][:9] = [*["aa"] * 4, *["zz"] * 4, "once"]
        users["likes"] = [
            [*own[:2], "new"] if i % 7 == 0 else own for i, own in enumerate(users["likes"])
        ]
        campaigns["topic"] = ["travel", "food"] * 2
    return users, campaigns, examples


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_new_data_keep_the_values_and_buckets_of_earlier_ones(tmp_path, form):
    likes = Column("likes", 3, ";" if form == "csv" else "")
    schema = TableSchema((*SCHEMA.user[:2], likes), SCHEMA.campaign, min_count=3)
    sources = [write(tmp_path / f"day{n}", *day(n), form) for n in (0, 1)]
    first = prepare(sources[0], tmp_path / "first", schema=schema)
    extends = first.schema, first.vocabulary
    second = prepare(sources[1], tmp_path / "second", schema=schema, extends=extends)
    assert second.schema == first.schema  # the buckets are those of the first day
    assert prepare(sources[1], tmp_path / "own", schema=schema).schema != first.schema
    for old, new in zip(first.vocabulary.values, second.vocabulary.values, strict=True):
        assert set(old.tolist()) <= set(new.tolist())
    cities = set(second.vocabulary.values[0].tolist()) - set(first.vocabulary.values[0].tolist())
    assert cities == {"aa", "zz", UNSEEN}  # "once" is rare
    assert "new" in second.vocabulary.values[2]
    assert "travel" in second.vocabulary.values[3]
    users, edges = day(1)[0], first.schema.user[1].edges
    users["city"][8] = UNSEEN
    np.testing.assert_array_equal(second.user_rows, plain(second.vocabulary, users, edges))
    # The same data again adds nothing.
    again = prepare(sources[0], tmp_path / "again", schema=schema, extends=extends)
    assert again.num_rows == first.num_rows
    np.testing.assert_array_equal(again.user_rows, first.user_rows)


def test_a_value_that_was_frequent_keeps_its_row_when_it_is_rare(tmp_path):
    schema = replace(SCHEMA, min_count=3)
    users, campaigns, examples = world()
    first = prepare(
        write(tmp_path / "a", users, campaigns, examples), tmp_path / "first", schema=schema
    )
    users["city"] = ["c1", *["c2"] * 79]
    source = write(tmp_path / "b", users, campaigns, examples)
    extends = first.schema, first.vocabulary
    second = prepare(source, tmp_path / "second", schema=schema, extends=extends)
    row = second.vocabulary.encode(0, ["c1"])[0]
    assert second.user_rows[0, 0] == row != second.vocabulary.encode(0, [UNSEEN])[0]


@pytest.mark.parametrize("earlier", ["1", "1.0"])
def test_whole_numbers_that_become_floats_keep_their_rows(tmp_path, earlier):
    """As pandas writes a column with its first missing cell."""
    schema = TableSchema((Column("x"),), (Column("topic"), Column("tier")))
    users, campaigns, examples = world()
    del users["city"], users["income"]
    x = np.arange(80) % 2 + 1
    users["x"], campaigns["tier"] = x, [1, 1, 2, 2]
    if earlier == "1.0":
        users["x"], campaigns["tier"] = [f"{n}.0" for n in x], ["1.0", "1.0", "2.0", "2.0"]
    sources = [write(tmp_path / "a", users, campaigns, examples, "parquet")]
    users["x"], campaigns["tier"] = [None, *map(float, x[1:])], [1.0, 1.0, 2.0, None]
    sources.append(write(tmp_path / "b", users, campaigns, examples, "parquet"))
    first = prepare(sources[0], tmp_path / "first", schema=schema)
    extends = first.schema, first.vocabulary
    second = prepare(sources[1], tmp_path / "second", schema=schema, extends=extends)
    for old, new in zip(first.vocabulary.values, second.vocabulary.values, strict=True):
        assert set(new.tolist()) - {""} == set(old.tolist())
    values = second.vocabulary.values[0][second.user_rows[:, 0]].tolist()
    assert values == ["", *(earlier.replace("1", str(n)) for n in x[1:])]


@pytest.mark.parametrize(
    ("change", "first"),
    [
        ({"user": SCHEMA.user[::-1]}, "likes"),
        ({"user": (*SCHEMA.user[:2], replace(SCHEMA.user[2], slots=2))}, "likes"),
        ({"user": (SCHEMA.user[0], Column("income"), SCHEMA.user[2])}, "income"),
        ({"user": (replace(SCHEMA.user[0], hash_rows=9), *SCHEMA.user[1:])}, "city"),
        ({"user": SCHEMA.user[1:]}, "income"),
    ],
)
def test_data_of_another_schema_cannot_go_on(tmp_path, change, first):
    source = write(tmp_path / "source", *world())
    data = prepare(source, tmp_path / "data", schema=SCHEMA)
    extends = data.schema, data.vocabulary
    schema = replace(SCHEMA, **change)
    with pytest.raises(InputError, match=f"from that of the earlier data, first in '{first}'"):
        prepare(source, tmp_path / "next", schema=schema, extends=extends)
    assert not (tmp_path / "next").exists()


# Hashed fields ----------------------------------------------------------------------------------


def test_hashed_fields_from_preparing_to_an_audience(tmp_path):
    users, campaigns, examples = world()
    users["city"] = [f"city {i}" for i in range(80)]
    hashed = replace(SCHEMA.user[2], hash_rows=6)
    schema = TableSchema((*SCHEMA.user[:2], hashed), SCHEMA.campaign)
    source = write(tmp_path / "source", users, campaigns, examples)
    data = prepare(source, tmp_path / "data", schema=schema, hash_rows=20)
    assert [field.hash_rows for field in data.schema.fields] == [20, 0, 6, 0, 0]
    assert open_dataset(tmp_path / "data").schema == data.schema
    method = cosine()
    save(method.fit(data), tmp_path / "model")
    general = load(tmp_path / "model")
    # A pool with values that nobody has seen needs no other model.
    users["city"] = [f"town {i}" for i in range(80)]
    fresh = write(tmp_path / "fresh", users, campaigns, examples)
    extends = general.schema, general.vocabulary
    pool = prepare(fresh, tmp_path / "pool", schema=schema, extends=extends)
    assert pool.num_rows == data.num_rows
    assert (np.asarray(pool.user_rows)[:, 0] != np.asarray(data.user_rows)[:, 0]).mean() > 0.5
    campaign = pool.new_campaign(users["user_id"][:5], {"topic": "food", "budget": 2.5})
    [model] = method.customise(general, pool, [campaign])
    audience = expand(model, pool, size=10)
    traits = audience_traits(pool, audience.user_ids, users["user_id"][:5], min_cell=1)
    assert {t.value.rstrip("0123456789") for t in traits if t.field == "city"} == {"hash bucket "}
