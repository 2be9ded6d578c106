"""Tables as datasets: against a plain reference, in every format, and what is refused."""

import gzip
import json
import shutil
import warnings
from datetime import date

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tables_world import SCHEMA, world, write
from toy import check_data, digest_of

from metaheac_jax.data.adding import add
from metaheac_jax.data.campaign import group_by_campaign
from metaheac_jax.data.columns import bucket_edges, infer_schema
from metaheac_jax.data.preparing import prepare
from metaheac_jax.data.table_file import Table, read_ids
from metaheac_jax.errors import InputError
from metaheac_jax.files import inert_frame
from metaheac_jax.schema import MISSING_WHOLE, Field, Schema

PLAIN = Schema(
    user=(Field("city"), Field("zip"), Field("likes", slots=2, separator=";")),
    campaign=(Field("topic"),),
    missing=("NA",),
)


def csv(*lines):
    return "\n".join(lines) + "\n"


# Against a plain reference ----------------------------------------------------------------------

cities = st.sampled_from(["", "a", "b", "7", "007", "NA"])
numbers = st.sampled_from(["", "3", "-3", "12", "3.0", "NA"])
lists = st.lists(st.sampled_from(["x", "y", "5", "", "NA"]), max_size=4).map(";".join)
users = st.lists(st.tuples(cities, numbers, lists), min_size=1, max_size=9)
campaigns = st.dictionaries(st.integers(1, 20), st.sampled_from(["u", "v"]), min_size=1, max_size=4)


def spelled(text):
    """How the reference spells a value: a missing one is empty."""
    return "" if text == "NA" else text.removesuffix(".0")


def is_whole(text):
    return text.lstrip("-").isdigit() and str(int(text)) == text


def values_of(texts):
    """The values of a field, in the order of their rows."""
    distinct = set(texts)
    if any(distinct) and all(is_whole(text) for text in distinct - {""}):
        return sorted(distinct, key=lambda text: (text != "", int(text or 0)))
    return sorted(distinct)


def reference(users, topics):
    """Values per field, and (U, 4) rows of users, for `PLAIN`."""
    one = [[spelled(user[f]) for user in users] for f in (0, 1)]
    kept = [[t for t in map(spelled, user[2].split(";")) if t][:2] for user in users]
    values = [*map(values_of, one), values_of(t for own in kept for t in own), values_of(topics)]
    first = np.cumsum([0, *map(len, values)])
    rows = []
    for u, likes in enumerate(kept):
        row = [first[f] + values[f].index(one[f][u]) for f in (0, 1)]
        row += [first[2] + values[2].index(text) for text in likes]
        rows.append(row + [first[-1]] * (4 - len(row)))
    return values, rows


@settings(max_examples=40)
@given(users, campaigns, st.data())
def test_prepare_is_a_plain_reference(tmp_path_factory, users, topics, data):
    pairs = st.tuples(
        st.sampled_from([*topics]),
        st.integers(0, len(users) - 1),
        st.integers(0, 1),
        st.integers(1, 2),
    )
    examples = data.draw(st.lists(pairs, min_size=1, max_size=12))
    order = data.draw(st.permutations(range(len(users))))
    source = tmp_path_factory.mktemp("tables")
    lines = [",".join([f"{100 + u}", *user]) for u, user in zip(order, users, strict=True)]
    (source / "users.csv").write_text(csv("user_id,city,zip,likes", *lines))
    lines = [f"{key},{topic}" for key, topic in topics.items()]
    (source / "campaigns.csv").write_text(csv("campaign_id,topic", *lines))
    lines = [f"{c},{100 + order[u]},{label},{stage}" for c, u, label, stage in examples]
    (source / "examples.csv").write_text(csv("campaign_id,user_id,label,stage", *lines))
    values, rows = reference(users, topics.values())
    if not values[2]:
        with pytest.raises(InputError, match=r"users\.csv: column 'likes': has no values; remove"):
            prepare(source, source / "data", schema=PLAIN)
        return
    found = prepare(source, source / "data", schema=PLAIN)
    check_data(found)
    texts = [["" if v == MISSING_WHOLE else str(v) for v in own] for own in found.vocabulary.values]
    assert texts == values
    assert found.user_rows[:].tolist() == rows
    assert found.user_ids.tolist() == [100 + u for u in order]
    assert found.campaign_ids.tolist() == sorted(topics)
    first = found.vocabulary.offsets[3]
    assert found.campaign_rows[:, 0].tolist() == [
        first + values[3].index(topics[key]) for key in sorted(topics)
    ]
    last = {(c, u): (label, stage) for c, u, label, stage in examples}
    for number, own in ((1, found.stage1), (2, found.stage2)):
        kept = [(sorted(topics).index(c), u, la) for (c, u), (la, s) in last.items() if s == number]
        columns = np.array(kept, int).reshape(-1, 3).T
        expected = group_by_campaign(*columns, num_campaigns=len(topics)).shuffled()
        for name in ("offsets", "user", "label"):
            np.testing.assert_array_equal(getattr(own, name), getattr(expected, name))


# Formats ----------------------------------------------------------------------------------------


def test_all_formats_of_a_table_are_the_same_data(tmp_path):
    tables = world()
    digests = set()
    for form in ("csv", "csv.gz", "parquet", "folder"):
        source = write(tmp_path / form, *tables, form="parquet" if form == "folder" else form)
        schema = SCHEMA
        if form in ("parquet", "folder"):
            likes = Field("likes", slots=3)
            schema = Schema((*SCHEMA.user[:2], likes), SCHEMA.campaign)
        if form == "folder":
            for name in ("users", "examples"):
                frame = pl.read_parquet(source / f"{name}.parquet")
                (source / f"{name}.parquet").unlink()
                (source / name / "more").mkdir(parents=True)
                (source / name / "_SUCCESS").touch()
                frame[:30].write_parquet(source / name / "b.parquet")
                frame[30:].write_parquet(source / name / "more" / "a.parquet")
                frame.write_parquet(source / name / ".b.parquet")
        digests.add(digest_of(prepare(source, tmp_path / f"{form}-data", schema=schema)))
    assert len(digests) == 1


def test_folders_of_hive_have_a_column_per_key(tmp_path):
    source = write(tmp_path / "plain", *world(), form="parquet")
    frame = pl.read_parquet(source / "users.parquet").drop_nulls("city").sort("city")
    frame.write_parquet(source / "users.parquet")
    schema = Schema((Field("city"), Field("likes", slots=3)), SCHEMA.campaign)
    with pytest.warns(UserWarning, match="unknown users; they are left out"):
        expected = digest_of(prepare(source, tmp_path / "one", schema=schema))
    (source / "users.parquet").unlink()
    for (city,), own in frame.group_by("city"):
        (source / "users" / f"city={city}").mkdir(parents=True)
        own.drop("city").write_parquet(source / "users" / f"city={city}" / "0.parquet")
    with pytest.warns(UserWarning, match="unknown users; they are left out"):
        assert digest_of(prepare(source, tmp_path / "two", schema=schema)) == expected


def test_the_schema_of_prepared_data_makes_the_same_buckets(tmp_path):
    data = prepare(write(tmp_path / "one", *world()), tmp_path / "data", schema=SCHEMA)
    again = Schema.read(tmp_path / "data" / "schema.json")
    write(tmp_path / "two", *world(seed=5))
    shutil.copy(tmp_path / "data" / "schema.json", tmp_path / "two")
    other = prepare(tmp_path / "two", tmp_path / "more")  # the schema is beside the tables
    assert other.schema == data.schema
    assert data.schema.fields[1].edges == again.user[1].edges != ()
    assert data.schema.campaign[1].edges == again.campaign[1].edges == (1.5,)
    for own in (data, other):
        buckets = own.campaign_rows[:, 1] - own.vocabulary.offsets[-1]
        assert buckets.tolist() == [1, 1, 2, 2]  # of budgets 0, 1, 2 and 3


def test_quotes_and_line_ends_of_csv(tmp_path):
    text = csv("user_id,city", 'a,"x, ""y"""', '"b",\'z', "c,", "d, e")
    (tmp_path / "users.csv").write_bytes(("\ufeff" + text.replace("\n", "\r\n")).encode())
    table = Table(tmp_path / "users.csv", ["city"])
    assert table.ids("user_id").to_list() == ["a", "b", "c", "d"]
    assert table.scan().collect()["city"].to_list() == ['x, "y"', "'z", None, " e"]
    assert "line 3:" in str(table.fault(1, "what"))


def test_sensitive_hashed_and_missing_values(tmp_path):
    users = csv("user_id,sex,device,age,score", "a,f,x1,NA,", "b,,x2,7,1.5", "c,m,NA,-1,NA")
    write(tmp_path, *world()[:2], [("k0", "a", 1, 1)])
    (tmp_path / "users.csv").write_text(users)
    schema = Schema(
        user=(
            Field("sex", sensitive=True),
            Field("age"),
            Field("score", buckets=2),
        ),
        campaign=SCHEMA.campaign,
        missing=("NA", "-1"),
    )
    data = prepare(tmp_path, tmp_path / "data", schema=schema)
    check_data(data)
    assert [field.name for field in data.schema.user] == ["age", "score"]
    own = data.sensitive["sex"]
    assert [own.values[code] for code in own.codes[:, 0]] == ["f", "(missing)", "m"]
    assert data.vocabulary.values[0].tolist() == [MISSING_WHOLE, 7]
    buckets = data.user_rows[:, 1] - data.vocabulary.offsets[1]
    assert buckets[0] == buckets[2] == 0 < buckets[1]


def test_the_excluded_are_in_no_byte(tmp_path):
    users, campaigns, examples = world()
    gone = users["user_id"][:5]
    source = write(tmp_path / "s", users, campaigns, examples)
    with (source / "users.csv").open("a") as file:
        file.write(f"{gone[0]}x,only-theirs,1,\n")
    (tmp_path / "out.csv").write_text(csv("user_id", *gone))
    (tmp_path / "out.txt").write_text(csv(f"{gone[0]}x", "nobody"))
    paths = [tmp_path / "out.csv", tmp_path / "out.txt"]
    with warnings.catch_warnings(record=True) as caught:  # they are not counted as unknown
        warnings.simplefilter("always")
        data = prepare(source, tmp_path / "d", schema=SCHEMA, exclude=paths)
    told = [str(own.message) for own in caught]
    assert told == [f"{paths[1]}: 1 of 2 ids are users; 1 is not, such as nobody (line 2)"]
    assert data.num_users == 75
    kept = [own for own in examples if own[1] not in gone]
    assert len(data.stage1.user) + len(data.stage2.user) == len(kept)
    written = b"".join(path.read_bytes() for path in (tmp_path / "d").iterdir())
    assert not any(own.encode() in written for own in [*gone, "only-theirs"])
    assert users["user_id"][5].encode() in written
    everybody = [*users["user_id"], f"{gone[0]}x"]
    with pytest.raises(InputError, match=r"users\.csv: has no rows but excluded"):
        prepare(source, tmp_path / "d", schema=SCHEMA, exclude=everybody)


# Refusals ---------------------------------------------------------------------------------------

USERS = ("user_id,city,zip,likes", "1,a,5,x;y", "2,b,6,", "3,a,7,y")
CAMPAIGNS = ("campaign_id,topic", "k,u", "l,v")
EXAMPLES = ("campaign_id,user_id,label", "k,1,1", "l,2,0", "k,3,0")
WITH_MORE = ("campaign_id,user_id,label,stage,audience", "k,1,1,1,0")


def changed(lines, number, line):
    """CSV text in which line ``number``, from 1, is another."""
    return csv(*lines[: number - 1], line, *lines[number:])


@pytest.mark.parametrize(
    ("name", "text", "where", "what"),
    [
        ("users", changed(USERS, 4, "1,a,7,y"), "line 4", "'1', expected one that no earlier"),
        ("users", changed(USERS, 3, ",b,6,"), "line 3", "user_id is None, expected an id"),
        ("users", changed(USERS, 3, "2,b,6"), "line 3", "expected 4 cells"),
        ("users", changed(USERS, 3, '2,"bc,6,'), "line 3", "a quote is not closed"),
        ("users", csv(*USERS[:1]), "", "has no rows"),
        ("users", csv("user_id,city,zip", "1,a,5"), "", "has no column 'likes'"),
        ("users", csv("user_id,city,city,likes", "1,a,5,"), "", "a column twice (city"),
        ("users", changed(USERS, 3, "2,\udce9,6,"), "", "cannot be read ("),
        ("examples", changed(EXAMPLES, 3, "m,2,0"), "line 3", "campaign_id is 'm', expected the"),
        ("examples", changed(WITH_MORE, 2, "k,1,1,3,0"), "line 2", "stage is '3', expected 1 or 2"),
        ("examples", changed(WITH_MORE, 2, "k,1,1,1,9"), "line 2", "audience is '9', expected 0"),
        ("examples", csv(EXAMPLES[0], "k,7,1", "k,8,1", "k,1,1"), "", "2 of 3 examples are of unk"),
        ("examples", csv(EXAMPLES[0]), "", "has no examples"),
        ("examples", None, "", "has no examples"),
    ],
)
def test_a_wrong_table_is_refused_in_one_line(tmp_path, name, text, where, what):
    source = tmp_path / "source"
    source.mkdir()
    texts = {"users": csv(*USERS), "campaigns": csv(*CAMPAIGNS), "examples": csv(*EXAMPLES)}
    form = "csv.gz" if "stage" in what else "csv"
    file = source / f"{name}.{form}"
    for own, content in {**texts, name: text}.items():
        if content is not None:
            content = content.encode(errors="surrogateescape")
            content = gzip.compress(content) if form == "csv.gz" else content
            (source / f"{own}.{form}").write_bytes(content)
    with pytest.raises(InputError) as error:
        prepare(source, tmp_path / "data", schema=PLAIN)
    message = str(error.value)
    assert message.startswith(f"{source if text is None else file}: {where}")
    assert what in message
    assert "\n" not in message
    assert [own.name for own in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"user_id": [1.0, 2.0]}, "user_id is of type Float64, expected whole numbers or text"),
        ({"city": [["a"], ["b"]]}, "column 'city': has lists; give"),
        ({"likes": ["x", "y"]}, "column 'likes': has no lists; give the field a \"separator\""),
        ({"zip": ["1", "many"]}, "row 2: zip is 'many', expected a number"),
        ({"zip": [None, None]}, "column 'zip': has no numbers"),
        ({"zip": [date(2026, 1, 1)] * 2}, "row 1: zip is datetime.date(2026, 1, 1), expected"),
    ],
)
def test_a_wrong_parquet_table_is_refused_in_one_line(tmp_path, change, what):
    source = tmp_path / "source"
    write(source, {}, {"campaign_id": ["k"], "topic": ["u"]}, [("k", 1, 1, 1)], form="parquet")
    users = {"user_id": [1, 2], "city": ["a", "b"], "zip": [1, 2], "likes": [["x"], []]}
    pl.DataFrame({**users, **change}).write_parquet(source / "users.parquet")
    fields = (Field("city"), Field("zip", buckets=2), Field("likes", slots=2))
    with pytest.raises(InputError) as error:
        prepare(source, tmp_path / "data", schema=Schema(fields, (Field("topic"),)))
    assert str(error.value).startswith(f"{source / 'users.parquet'}: {what}")
    assert "\n" not in str(error.value)


def test_a_row_of_a_folder_is_counted_over_its_files(tmp_path):
    source = write(tmp_path / "s", *world(), form="parquet")
    frame = pl.read_parquet(source / "examples.parquet")
    (source / "examples.parquet").unlink()
    (source / "examples").mkdir()
    frame[:7].write_parquet(source / "examples" / "1.parquet")
    wrong = frame[7:].with_columns(label=pl.when(pl.int_range(pl.len()) != 3).then("label"))
    wrong.write_parquet(source / "examples" / "2.parquet")
    schema = Schema((Field("city"),), SCHEMA.campaign)
    with pytest.raises(InputError, match=r"s/examples: row 11: label is None"):
        prepare(source, tmp_path / "d", schema=schema)
    (source / "examples" / "2.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(InputError, match=r"examples: cannot be read \("):
        prepare(source, tmp_path / "d", schema=schema)
    frame.write_parquet(source / "examples.parquet")
    with pytest.raises(InputError, match=r"s: has both examples and examples\.parquet"):
        prepare(source, tmp_path / "d", schema=schema)


def test_ids_that_a_spreadsheet_would_run_are_read_back(tmp_path):
    """Audiences in CSV have an apostrophe before them."""
    ids, names = ["=a", "+b", "-c", "@d", "'=a", "e", "-7"], ["=k", "l"]
    users = pl.DataFrame({"user_id": ids, "city": ["x", "y"] * 3 + ["x"]})
    campaigns = pl.DataFrame({"campaign_id": names, "topic": ["u", "v"]})
    audience = pl.DataFrame({"campaign_id": ["=k"] * 7, "user_id": ids, "label": [1, 0] * 3 + [1]})
    for name, frame in (("users", users), ("campaigns", campaigns), ("examples", audience)):
        frame.write_parquet(tmp_path / f"{name}.parquet")
        inert_frame(frame).write_csv(tmp_path / f"{name}.csv")
    read, _ = read_ids(tmp_path / "examples.csv", "user_id", whole=False)
    assert read.tolist() == [own.encode() for own in ids]
    digests = set()
    for forms in (("parquet",) * 3, ("parquet", "csv", "csv"), ("csv",) * 3):
        source = tmp_path / "-".join(forms)
        source.mkdir()
        for name, form in zip(("users", "campaigns", "examples"), forms, strict=True):
            shutil.copy(tmp_path / f"{name}.{form}", source)
        data = prepare(source, tmp_path / "data", schema=Schema((Field("city"),), PLAIN.campaign))
        digests.add(digest_of(data))
    assert len(digests) == 1
    assert add(data, examples=tmp_path / "examples.csv").digest == data.digest
    assert add(data, exclude=ids[:6]).user_ids.tolist() == [b"-7"]


@pytest.mark.parametrize("whole", [True, False])
def test_ids_of_another_type_are_those_of_the_same_text(tmp_path, whole):
    """Whole numbers are compared as such, and 07 is none."""
    ids = [5, 7, 12] if whole else ["5", "7", "x"]
    pl.DataFrame({"user_id": ids, "city": ["a", "b", "a"]}).write_parquet(
        tmp_path / "users.parquet"
    )
    (tmp_path / "campaigns.csv").write_text(csv(*CAMPAIGNS))
    (tmp_path / "examples.csv").write_text(csv(EXAMPLES[0], "k,7,1", "k,07,0", "l,5,1", "l,7,0"))
    (tmp_path / "out.csv").write_text(csv("user_id", "5", "05"))
    schema = Schema((Field("city"),), PLAIN.campaign)
    if whole:
        with pytest.raises(InputError, match=r"examples\.csv: line 3: user_id is '07', expected a"):
            prepare(tmp_path, tmp_path / "data", schema=schema)
        (tmp_path / "examples.csv").write_text(csv(EXAMPLES[0], "k,7,1", "k,8,0", "l,5,1", "l,7,0"))
    with pytest.warns(UserWarning, match="1 of 4 examples are of unknown users"):
        data = prepare(tmp_path, tmp_path / "data", schema=schema)
    assert data.user_ids.tolist() == (ids if whole else [b"5", b"7", b"x"])
    assert sorted(data.stage1.user) == [0, 1, 1]
    if whole:
        with pytest.raises(InputError, match=r"out\.csv: line 3: user_id is '05', expected a"):
            add(data, exclude=[tmp_path / "out.csv"])
        (tmp_path / "out.csv").write_text(csv("user_id", "5", "6"))
    with pytest.warns(UserWarning, match=r"1 of 2 ids are users; 1 is not, such as 0?[56] \(line"):
        fewer = add(data, exclude=[tmp_path / "out.csv"])
    assert fewer.num_users == 2
    assert sorted(fewer.stage1.user) == [0, 0]


# Schemas ----------------------------------------------------------------------------------------

FIELDS = '"user": [{"name": "a"}], "campaign": [{"name": "b"}]'


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "not valid JSON"),
        ("3", "expected a JSON object"),
        (f'{{{FIELDS}, "usr": 1}}', "unknown key 'usr'"),
        ('{"user": [{"sensitive": true, "sensitive": false}]}', "key 'sensitive' is given twice"),
        (f'{{{FIELDS}, "user_id": "a"}}', "field 'a' is named twice, or is an id"),
        (FIELDS.join("{}").replace('"b"', '"b", "slots": 2'), "campaign field 'b': has one slot"),
        (FIELDS.join("{}").replace('"a"', '"a", "sensitive": true'), "at least one user field"),
        (FIELDS.join("{}").replace('"a"', '"a", "separator": ";"'), "'a': only a list has a sep"),
        (FIELDS.join("{}").replace('"a"', '"a", "buckets": 1'), "'a': a number needs two buckets"),
    ],
)
def test_a_wrong_schema_is_refused_in_one_line(tmp_path, text, what):
    path = tmp_path / "schema.json"
    path.write_text(text)
    with pytest.raises(InputError) as error:
        Schema.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert what in str(error.value)
    path.write_text(json.dumps(SCHEMA.to_json()))
    assert Schema.read(path) == SCHEMA


def test_a_first_schema_is_inferred(tmp_path):
    rng = np.random.default_rng(0)
    count = 120
    users = {
        "user_id": [f"u{i}" for i in range(count)],
        "name": [f"name {i}" for i in range(count)],
        "age": rng.integers(18, 99, count),
        "grade": [["NA", "a", "b"][i % 3] for i in range(count)],
        "tags": ["x;y;z" if i % 5 else "" for i in range(count)],
        "day": [date(2026, 1, 1)] * count,
        "void": [None] * count,
        "": range(count),  # as to_csv of pandas writes it
    }
    pl.DataFrame({**users, "lists": [["a", "b", "c"]] * count}).write_parquet(
        tmp_path / "users.parquet"
    )
    (tmp_path / "campaigns.csv").write_text(csv("campaign_id,topic", "1,x;y", "2,z"))
    (tmp_path / "examples.csv").write_text(csv("campaign_id,user_id,label", "1,u5,1"))
    paths = {"users": tmp_path / "users.parquet", "campaigns": tmp_path / "campaigns.csv"}
    with pytest.warns(UserWarning, match=r"no fields: name, void, \(without a name\)$"):
        schema = infer_schema(paths)
    assert schema == Schema(
        user=(
            Field("age", buckets=10),
            Field("grade"),
            Field("tags", slots=3, separator=";"),
            Field("day"),
            Field("lists", slots=3),
        ),
        campaign=(Field("topic"),),
        missing=("NA",),
    )
    assert schema.describe() == [
        "users, numbers in buckets: age",
        "users, categories: grade, day",
        "users, lists: tags, lists",
        "campaigns, categories: topic",
    ]
    with pytest.warns(UserWarning, match="columns that are no fields"):
        data = prepare(tmp_path, tmp_path / "data")
    assert data.stage1.user.tolist() == [5]
    (tmp_path / "campaigns.csv").write_text(csv("ad,topic", "1,x"))
    with pytest.raises(InputError, match=r"campaigns\.csv: has no column 'campaign_id'"):
        prepare(tmp_path, tmp_path / "data")


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=60), st.integers(2, 8))
def test_edges_divide_numbers_about_equally(values, num_buckets):
    numbers = np.array(values)
    edges = np.array(bucket_edges(numbers, num_buckets))
    assert len(edges) >= 1
    assert (np.diff(edges) > 0).all()
    buckets = np.searchsorted(edges, numbers, side="right")
    if len(set(values)) > 1:
        assert len(set(buckets.tolist())) > 1
    distinct, counts = np.unique(numbers, return_counts=True)
    for value in distinct[counts >= 2 * len(numbers) / num_buckets]:
        assert set(numbers[buckets == np.searchsorted(edges, value, side="right")]) == {value}
