"""Values of columns: hashed in a way that never changes, in memory that long cells do not fill."""

import hashlib
from dataclasses import replace
from datetime import date, datetime

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaheac_jax.data.sources import table_fields
from metaheac_jax.data.sources.table_fields import Encoder, bucket_edges, learn
from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.data.sources.table_schema import Column
from metaheac_jax.errors import InputError
from metaheac_jax.schema import UNSEEN, Field, Vocabulary


def rows_of(frame, column, folder, **options):
    """A column written and learned: its field, the vocabulary, and the rows of its cells."""
    pl.DataFrame(frame).write_parquet(folder / "users.parquet")
    file = TableFile(folder / "users.parquet", [column.name])
    learned = learn(file, column, **options)
    vocabulary = Vocabulary((np.arange(7), learned.values))  # after a field of seven rows
    [(_, cells)] = file.blocks()
    return learned, vocabulary, Encoder([learned], vocabulary, first=1).rows(cells)


DATES = [date(2026, 1, n) for n in range(1, 9)]
text = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5)


@settings(max_examples=15)
@given(st.lists(st.none() | text, min_size=1, max_size=20), st.integers(1, 5), st.integers(1, 3))
def test_hashed_cells_have_the_row_of_their_digest(tmp_path_factory, cells, rows, slots):
    folder = tmp_path_factory.mktemp("hashed")
    frame = {"a": pl.Series(cells, dtype=pl.String)}
    lists = [[c] * slots if c else [] for c in cells]
    if slots > 1:
        frame = {"a": pl.Series(lists, dtype=pl.List(pl.String))}
    column = Column("a", slots=slots, hash_rows=rows)
    learned, vocabulary, found = rows_of(frame, column, folder)
    single = slots == 1  # a missing one has a row
    assert vocabulary.num_rows == 7 + rows + single
    for cell, own in zip(cells, found, strict=True):
        if not cell:
            assert own.tolist() == [7 if single else vocabulary.num_rows] * slots
            continue
        digest = hashlib.blake2b(cell.encode("utf-8"), digest_size=8).digest()
        bucket = sum(byte << (8 * i) for i, byte in enumerate(digest)) % rows
        assert own.tolist() == [7 + bucket + single] * slots
        assert learned.field.text(bucket) == f"hash bucket {bucket}"


def test_more_values_than_asked_for_are_hashed(tmp_path):
    frame = {"a": [f"v{i}" for i in range(10)], "b": [*"aabbccdde", None]}
    assert rows_of(frame, Column("a"), tmp_path, hash_rows=10)[0].field == Field("a")
    assert rows_of(frame, Column("a"), tmp_path, hash_rows=9)[0].field == Field("a", hash_rows=9)
    rare = {"hash_rows": 5, "min_count": 2}  # four values, the missing and the rare ones: six
    assert rows_of(frame, Column("b"), tmp_path, **rare)[0].field == Field("b", hash_rows=5)
    rare["hash_rows"] = 6
    assert rows_of(frame, Column("b"), tmp_path, **rare)[0].field == Field("b")


@pytest.mark.parametrize(
    ("numbers", "buckets", "edges"),
    [
        ([0] * 92 + [1, 2, 3, 4, 5, 6, 7, 8], 10, (1.0,)),  # all quantiles are 0
        ([0] * 7 + [1] * 3, 2, (1.0,)),
        ([0] * 17 + [1, 8, 9], 10, (1.0, 1.7)),
        ([1, 2] + [5] * 8 + [8, 9], 5, (5.0, 8.0)),
        ([1] + [5] * 9, 4, (5.0,)),
        ([3] * 9, 4, (3.0,)),
        (range(9), 4, (2.0, 4.0, 6.0)),
    ],
)
def test_a_frequent_number_has_a_bucket_of_its_own(tmp_path, numbers, buckets, edges):
    learned, _, _ = rows_of({"a": list(numbers)}, Column("a", buckets=buckets), tmp_path)
    np.testing.assert_allclose(learned.field.edges, edges)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=60), st.integers(2, 8))
def test_no_frequent_number_shares_its_bucket(numbers, buckets):
    values, counts = np.unique(np.array(numbers, float), return_counts=True)
    field = Field("a", edges=bucket_edges(np.array(numbers, float), buckets))
    assert 1 <= len(field.edges) < buckets
    assert list(field.edges) == sorted(set(field.edges))
    bucket = field.bucket(values)
    for value, count in zip(values, counts, strict=True):
        if (count - 1) * buckets >= 2 * (len(numbers) - 1):
            assert (bucket == field.bucket(value)).sum() == 1


def test_an_earlier_field_keeps_its_buckets(tmp_path):
    frame = {"a": ["x", "y"], "b": [1.0, 9.0]}
    earlier = Field("a", hash_rows=3)
    assert rows_of(frame, Column("a"), tmp_path, earlier=earlier)[0].field == earlier
    earlier = Field("b", edges=(2.0, 4.0, 100.0))
    learned, _, rows = rows_of(frame, Column("b", buckets=2), tmp_path, earlier=earlier)
    assert learned.field == earlier
    assert rows.tolist() == [[8], [10]]  # after the row of missing numbers, buckets 0 and 2


def test_a_list_counts_once_per_value(tmp_path):
    frame = {"a": [["x", "y", "x"], ["y"], ["z", "z", "z"]]}
    learned, _, rows = rows_of(frame, Column("a", slots=2), tmp_path, min_count=2)
    assert learned.values.tolist() == [UNSEEN, "y"]
    assert rows[0].tolist() == [7, 8]


def test_values_behind_the_slots_of_a_list_have_no_row(tmp_path):
    frame = {"a": [["x", "y", "z"], ["y", "y", "w"]]}
    learned, _, rows = rows_of(frame, Column("a", slots=2), tmp_path)
    assert learned.values.tolist() == ["x", "y"]
    assert rows.tolist() == [[7, 8], [8, 8]]


def test_whole_numbers_that_are_hashed_with_a_point_are_told(tmp_path):
    """As text they are hashed as spelled; the floats of Parquet are spelled as whole numbers."""
    column = Column("a", hash_rows=500)
    with pytest.warns(UserWarning, match=r"column 'a' is hashed as it is spelled, such as -8"):
        rows_of({"a": ["75001.0", None, "", "7.0", "-8.0"]}, column, tmp_path)
    rows_of({"a": ["75001.0", "7.1"]}, column, tmp_path)  # such as versions
    plain, floats = (rows_of({"a": cells}, column, tmp_path)[2] for cells in (["75001"], [75001.0]))
    assert plain.tolist() == floats.tolist()


@pytest.mark.parametrize("cells", [DATES, pl.Series(DATES).cast(pl.Datetime)])
def test_dates_are_no_numbers(tmp_path, cells):
    """Their numbers would be days in one file and microseconds in the next."""
    with pytest.raises(InputError, match=r"column 'a' has dates or times; make it a number"):
        rows_of({"a": cells}, Column("a", buckets=3), tmp_path)
    rows_of({"a": cells}, Column("a"), tmp_path)


TIMES = [datetime(2026, 1, n % 9 + 1, 5, 6, 7) for n in range(20)]


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (Column("a"), TIMES),
        (Column("a", hash_rows=50), TIMES),
        (Column("a", slots=2), [[time, TIMES[0]] for time in TIMES]),
    ],
)
def test_a_time_has_one_text_whatever_the_unit_of_the_file(tmp_path, column, cells):
    kinds = [pl.Datetime(unit) for unit in ("ms", "us", "ns")]
    kinds = kinds if column.slots == 1 else [pl.List(kind) for kind in kinds]
    units = (pl.Series(cells).cast(kind) for kind in kinds)
    found = [rows_of({"a": cells}, column, tmp_path) for cells in units]
    assert len({tuple(np.ravel(rows).tolist()) for _, _, rows in found}) == 1
    assert len({tuple(learned.values.tolist()) for learned, *_ in found}) == 1


def test_lists_have_no_separator(tmp_path):
    words = "column 'a' has lists; remove the field's \"separator\""
    with pytest.raises(InputError, match=words):
        rows_of({"a": [["x"], []]}, Column("a", slots=2, separator=";"), tmp_path)


@pytest.mark.parametrize("name", ["len", "value", "count"])
@pytest.mark.parametrize("column", [{}, {"slots": 2}, {"buckets": 2}, {"hash_rows": 3}])
def test_a_field_may_have_any_name(tmp_path, name, column):
    cells = [["1", "2"], ["3"]] if "slots" in column else ["1", "3"]
    own, plain = (
        rows_of({field: cells}, Column(field, **column), tmp_path) for field in (name, "a")
    )
    np.testing.assert_array_equal(own[2], plain[2])


@pytest.mark.parametrize("kind", [pl.Categorical, pl.Enum(["1", "9", "nan", "2"]), pl.Binary])
def test_buckets_of_numbers_in_text_of_any_kind(tmp_path, kind):
    texts = pl.Series("a", ["1", None, "nan", "9", "2"])
    _, _, expected = rows_of({"a": [1.0, None, None, 9.0, 2.0]}, Column("a", buckets=2), tmp_path)
    _, _, rows = rows_of({"a": texts.cast(kind)}, Column("a", buckets=2), tmp_path)
    np.testing.assert_array_equal(rows, expected)
    assert rows[:, 0].tolist() == [8, 7, 7, 9, 9]


@pytest.mark.parametrize("kind", [pl.String, pl.Float32])
def test_nan_among_numbers_is_missing(tmp_path, kind):
    cells = pl.Series("a", ["nan", "1", "3", None]).cast(kind)
    learned, _, rows = rows_of({"a": cells}, Column("a", buckets=2), tmp_path)
    assert learned.field.edges == (2.0,)
    assert rows[:, 0].tolist() == [7, 8, 9, 7]


def test_a_long_cell_that_is_rare_takes_no_memory(tmp_path, monkeypatch):
    """Arrays of text have the width of their longest member."""
    widest = []
    encode = Vocabulary.encode

    def watch(self, field, raw):
        widest.append(np.asarray(raw).dtype.itemsize)
        return encode(self, field, raw)

    monkeypatch.setattr(Vocabulary, "encode", watch)
    frame = {"a": ["ab", "ab", "abc" * 10**6, "x"]}
    learned, _, rows = rows_of(frame, Column("a"), tmp_path, min_count=2)
    assert learned.values.tolist() == [UNSEEN, "ab"]
    assert rows[:, 0].tolist() == [8, 8, 7, 7]
    assert max(widest) <= 4 * (len(UNSEEN) + 1)


def test_a_cell_that_begins_like_the_longest_value_is_another(tmp_path):
    frame = {"a": ["ninechars", "ninechars", "ninecharsX"]}
    _, vocabulary, rows = rows_of(frame, Column("a"), tmp_path, min_count=2)
    known, unseen = vocabulary.encode(1, ["ninechars", UNSEEN])
    assert rows[:, 0].tolist() == [known, known, unseen]


def test_values_that_would_fill_the_memory_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(table_fields, "_MAX_BYTES", 4 * 3 * 20)
    frame = {"a": ["a", "b", "x" * 20]}
    rows_of(frame, Column("a"), tmp_path)
    frame["a"][0] = "x" * 21
    with pytest.raises(InputError, match='has 3 values of up to 21 characters; give the field "h'):
        rows_of(frame, Column("a"), tmp_path)
    rows_of(frame, Column("a", hash_rows=2), tmp_path)


@pytest.mark.parametrize(
    ("column", "cells"),
    [
        (Column("a"), [1, 2, -7, 2, None]),
        (Column("a", hash_rows=50), [1, 2, -7, 2, None]),
        (Column("a", slots=2, separator=";"), [1, 2, -7, 2, None]),
        (Column("a", slots=2), [[1, 2], [2**24], [], None]),
    ],
)
@pytest.mark.parametrize("kind", [pl.Float64, pl.Float32])
def test_whole_numbers_are_the_same_values_as_floats(tmp_path, column, cells, kind):
    """With the first missing cell, pandas makes a column of floats."""
    kind = pl.List(kind) if isinstance(cells[0], list) else kind
    whole, _, rows = rows_of({"a": cells}, column, tmp_path)
    learned, _, found = rows_of({"a": pl.Series(cells, dtype=kind)}, column, tmp_path)
    np.testing.assert_array_equal(learned.values, whole.values)
    np.testing.assert_array_equal(found, rows)
    assert len(set(map(tuple, found.tolist()))) > 2


@pytest.mark.parametrize(
    ("cells", "known", "values"),
    [
        ([1.0, 2.5], [], ["1", "2.5"]),
        ([float("nan"), 1.0], [], ["", "1"]),
        ([float("nan"), 1.0], ["1.0", "NaN"], ["", "1.0"]),
        ([1.0, 2.0**53], [], ["1", "9007199254740992.0"]),
        ([-0.0, 7.0], [], ["0", "7"]),
        ([1.0, 2.0], ["", "3.0"], ["1.0", "2.0"]),
        ([1.0, 2.5], ["1.0"], ["1.0", "2.5"]),
        ([1.0, 2.0], ["1.0", "1"], ["1", "2"]),
        ([1.0, 2.5], ["1.0", "1"], ["1", "2.5"]),
        ([1.0, 2.5], ["", "4"], ["1", "2.5"]),
        ([1.0, 2.0], ["Rome", "4.5"], ["1", "2"]),
        ([1, 2], ["", "3.0"], ["1.0", "2.0"]),
        ([None, 1], ["3.0"], ["", "1.0"]),
        ([1, 2], ["1.0", "1"], ["1", "2"]),
        ([1, 2], [], ["1", "2"]),
        (pl.Series([0.1, 3.0], dtype=pl.Float32), ["3.0"], ["0.1", "3.0"]),
    ],
)
def test_numbers_are_spelled_as_earlier_values_are(tmp_path, cells, known, values):
    options = {"known": np.array(known, str)}
    learned, vocabulary, rows = rows_of({"a": cells}, Column("a"), tmp_path, **options)
    assert learned.values.tolist() == values
    assert [vocabulary.values[1][row - 7] for row in rows[:, 0]] == values


def test_whole_numbers_in_a_list_are_spelled_as_earlier_values_are(tmp_path):
    options = {"known": np.array(["3.0"])}
    learned, _, _ = rows_of({"a": [[1, 2], [2]]}, Column("a", slots=2), tmp_path, **options)
    assert learned.values.tolist() == ["1.0", "2.0"]


def test_a_list_has_no_nan(tmp_path):
    learned, vocabulary, rows = rows_of(
        {"a": [[float("nan"), 2.5], [float("nan")]]}, Column("a", slots=2), tmp_path
    )
    assert learned.values.tolist() == ["2.5"]
    pad = vocabulary.num_rows
    assert rows.tolist() == [[7, pad], [pad, pad]]


def test_an_empty_text_in_a_list_takes_no_slot(tmp_path):
    frame = {"a": [["", "x", None, "y"], ["y"], [""], None]}
    learned, vocabulary, rows = rows_of(frame, Column("a", slots=2), tmp_path)
    assert learned.values.tolist() == ["x", "y"]
    pad = vocabulary.num_rows
    assert rows.tolist() == [[7, 8], [8, pad], [pad, pad], [pad, pad]]


BYTES = pl.Series([b"\xff", b"a"])


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (pl.Series([[1], [2]]), Column("a")),
        (pl.Series(["x", "y"]), Column("a", slots=3)),
        (BYTES, Column("a")),
        (BYTES, Column("a", slots=3, separator=";")),
    ],
)
def test_a_hashed_column_is_refused_as_others_are(tmp_path, cells, column):
    with pytest.raises(
        InputError, match=r"users\.parquet: column 'a' (is not what|has text,|has lists;)"
    ) as refused:
        rows_of({"a": cells}, column, tmp_path)
    hashed, earlier = replace(column, hash_rows=9), Field("a", column.slots, hash_rows=9)
    for own, options in ((hashed, {}), (column, {"earlier": earlier}), (column, {"hash_rows": 9})):
        with pytest.raises(InputError) as also:
            rows_of({"a": cells}, own, tmp_path, **options)
        assert str(also.value) == str(refused.value)


def test_a_sensitive_value_that_looks_missing_is_refused(tmp_path):
    frame = {"a": ["(missing)", "x", None]}
    rows_of(frame, Column("a"), tmp_path)
    rows_of({"a": frame["a"][:2]}, Column("a", sensitive=True), tmp_path)
    words = r"users\.parquet: sensitive column 'a' has empty cells and cells '\(missing\)', which"
    with pytest.raises(InputError, match=words):
        rows_of(frame, Column("a", sensitive=True), tmp_path)


@pytest.mark.parametrize(
    ("cells", "column"),
    [
        (pl.Series([None, None], dtype=pl.List(pl.String)), Column("a", slots=2)),
        (pl.Series([None, None], dtype=pl.String), Column("a", buckets=2)),
        (pl.Series([float("nan"), None]), Column("a", buckets=2)),
        (pl.Series([[1], [2]]), Column("a", buckets=2)),
        (BYTES, Column("a", buckets=2)),
        (pl.Series(["x", "y"]), Column("a", slots=2)),
    ],
)
def test_a_column_that_is_not_what_the_schema_says_is_named(tmp_path, cells, column):
    with pytest.raises(InputError, match=r"users\.parquet: column 'a' (is|has)"):
        rows_of({"a": cells}, column, tmp_path)


def test_a_quote_inside_a_cell_is_named(tmp_path):
    path = tmp_path / "users.csv"
    path.write_text('user_id,a\n1,5" pipe\n2,x\n')
    with pytest.raises(
        InputError, match=r"users\.csv: line 2: a quote inside a cell; put the cell"
    ):
        learn(TableFile(path, ["a"]), Column("a"))
