"""The scorer on Arrow: the table rows of `prepare`, and the scores of the model."""

import datetime
import os
import subprocess
import sys
from dataclasses import replace
from decimal import Decimal

import jax
import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from engine_world import WRONG

from metaheac_jax.data.columns import cell_texts, encode, learn
from metaheac_jax.data.table_file import Table
from metaheac_jax.encoding import Encoder, type_of
from metaheac_jax.engines import arrow as module
from metaheac_jax.engines.arrow import HISTORY, ArrowScorer, open_export
from metaheac_jax.engines.export_files import PROGRAM, read_export
from metaheac_jax.errors import InputError
from metaheac_jax.schema import Field, Vocabulary

MISSING = ("NA", "0")
DAY = datetime.date(2024, 2, 29)
TEXTS = ["Paris", "12.0", "12", "True", "NaN", "NA", "", None, " x", "é", "0", "007", "<unseen>"]
FLOATS = [1.0, 12.5, 0.1, 1e5, -7.0, float("nan"), None, 3e-7, 0.0, -0.0, float("inf"), 1e16]
COLUMNS = {
    "text": (Field("x"), pl.Series(TEXTS)),
    "whole numbers": (Field("x"), pl.Series([5, 75001, -3, 0, None, 2**62, 12])),
    "near numbers": (Field("x"), pl.Series([5, 7, None, 12, -1, 0])),
    "small numbers": (Field("x"), pl.Series([5, 1, None, 0, 12], dtype=pl.UInt8)),
    "floats": (Field("x"), pl.Series([*FLOATS, 1e15, 123456789012.0])),
    "short floats": (Field("x"), pl.Series(FLOATS, dtype=pl.Float32)),
    "true and false": (Field("x"), pl.Series([True, False, None])),
    "dates": (Field("x"), pl.Series([DAY, None, datetime.date(1999, 1, 2)])),
    "times": (Field("x"), pl.Series([datetime.datetime(2024, 1, 2, 3, 4, 5, 120000), None])),
    "decimals": (Field("x"), pl.Series([Decimal("12.50"), Decimal("3.00"), None])),
    "categories": (Field("x"), pl.Series(TEXTS, dtype=pl.Categorical)),
    "nothing": (Field("x"), pl.Series([None, None], dtype=pl.Null)),
    "lists": (
        Field("x", 2),
        pl.Series([["a", "b"], ["NA", "b", None, "a", "c"], [], None, ["c"]]),
    ),
    "lists of numbers": (Field("x", 3), pl.Series([[5, 0, 7, 8], [5], [None, 9], []])),
    "lists of near numbers": (Field("x", 2), pl.Series([[5, 7, 8], [None, 9, -1], [], None])),
    "lists in text": (Field("x", 2, separator=";"), pl.Series(["a; b", ";NA;c ;b", "", None])),
    "buckets": (Field("x", buckets=3), pl.Series([0.1, 0.7, 5.0, None, 0.0, -2.0, 9.5])),
    "buckets of short floats": (
        Field("x", edges=(0.1, 0.7, 16.1)),
        pl.Series([0.1, 0.7, 16.1, None], dtype=pl.Float32),
    ),
    "buckets of numbers": (Field("x", buckets=2), pl.Series([5, 9, None, 0, -4])),
    "buckets of text": (Field("x", edges=(1.0, 3.5)), pl.Series(["2", "1e1", "", "NA", "3.5"])),
}


def looked_up(frame, column, vocabulary, missing):
    """The table rows of all cells, one cell after the other."""
    category = replace(column, edges=(), buckets=0)
    cells = frame.select(text=cell_texts(category, missing))["text"].to_list()
    if column.is_number:
        numbers = np.array([np.nan if cell is None else float(cell) for cell in cells])
        return vocabulary.encode(0, column.bucket(numbers))[:, None]
    if column.slots == 1:
        return vocabulary.encode_texts(0, [cell or "" for cell in cells])[:, None]
    rows = np.full((len(cells), column.slots), vocabulary.num_rows)
    for own, cell in zip(rows, cells, strict=True):
        values = vocabulary.encode_texts(0, cell[: column.slots])
        own[: len(values)] = values
    return rows


@pytest.mark.parametrize("missing", [(), MISSING])
@pytest.mark.parametrize("kind", COLUMNS)
def test_cells_become_the_table_rows_of_prepare(kind, missing):
    """All rows are encoded; the last ones were not there when values were learned."""
    column, cells = COLUMNS[kind]
    frame = pl.concat([cells, cells, cells[:2]]).alias("x").to_frame()
    if missing == () and kind == "buckets of text":
        frame = frame.filter(pl.col("x") != "NA")
    column, values = learn(Table(frame[: len(frame) // 3]), column, missing)
    vocabulary = Vocabulary((values,))
    expected = looked_up(frame, column, vocabulary, missing)
    np.testing.assert_array_equal(encode(frame, [column], vocabulary, missing=missing), expected)
    own = Encoder(0, column, vocabulary, missing)
    cells = frame.to_arrow()["x"]
    own.check(type_of(frame.to_arrow().schema, "x"))
    np.testing.assert_array_equal(own.rows(cells.combine_chunks()), expected)
    np.testing.assert_array_equal(own.rows(cells.combine_chunks()[3:]), expected[3:])


def test_a_text_of_many_types_is_one_value():
    """Large strings, views and dictionaries."""
    vocabulary, texts = Vocabulary((np.array(["", "a", "b"]),)), ["b", None, "a", "x"]
    own = Encoder(0, Field("x"), vocabulary, ())
    column = pa.array(texts)
    kinds = (
        pa.string(),
        pa.large_string(),
        pa.string_view(),
        pa.dictionary(pa.int8(), pa.string()),
    )
    for kind in kinds:
        assert own.rows(column.cast(kind))[:, 0].tolist() == [2, 0, 1, 3], kind


def test_what_a_missing_list_holds_does_not_count():
    own = Encoder(0, Field("x", 2), Vocabulary((np.arange(4),)), ())
    missing = pa.array([False, True, False])
    lists = pa.ListArray.from_arrays([0, 2, 4, 5], pa.array([0, 1, 2, 3, 2]), mask=missing)
    assert own.rows(lists).tolist() == [[0, 1], [4, 4], [2, 4]]
    assert own.rows(lists[1:]).tolist() == [[4, 4], [2, 4]]


def test_rows_and_scores_are_those_of_the_model(made):
    scorer, users = open_export(made.export), made.users.to_arrow()
    assert scorer.campaigns.to_pylist() == [7, 12, 31]
    np.testing.assert_array_equal(scorer.rows(users), made.data.user_rows)
    for count in (0, 1, 7, made.users.height):
        scores = scorer(users.slice(0, count))
        assert scores.shape == (count, 3)
        assert scores.dtype == np.float32
        for number, model in enumerate(made.models):
            expected = model.score(made.data.user_rows[:count])
            np.testing.assert_allclose(scores[:, number], expected, rtol=0, atol=1e-6)
    assert np.ptp(scores) > 0.1


def test_histories_are_those_of_the_data(made, historic):
    scorer = open_export(historic.export)
    examples = made.examples.select("uid", history=pl.format("{}:{}", "label", "campaign_id"))
    lists = examples.group_by("uid").agg(pl.col("history").alias(HISTORY))
    users = made.users.join(lists, on="uid", how="left", maintain_order="left")
    assert users[HISTORY].is_null().any()
    found, expected = scorer.rows(users.to_arrow()), np.asarray(historic.read.user_rows)
    numbers = len(historic.read.user_rows.history.summary.center)
    assert np.ptp(expected[:, :numbers].view(np.float32), axis=0).max() > 0.1
    np.testing.assert_array_equal(found[:, numbers:], expected[:, numbers:])
    found, expected = (rows[:, :numbers].copy().view(np.float32) for rows in (found, expected))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_scoring_imports_no_part_that_trains(made):
    program = (
        "import sys\n"
        "import numpy as np, pyarrow.parquet as pq\n"
        "from metaheac_jax.engines.arrow import open_export\n"
        "scores = open_export(sys.argv[1])(pq.read_table(sys.argv[2]))\n"
        "np.save(sys.argv[3], scores)\n"
        "heavy = 'flax', 'optax', 'orbax', 'polars', 'metaheac_jax.training', 'metaheac_jax.data'\n"
        "assert not [name for name in heavy if name in sys.modules]\n"
    )
    folder = made.folder
    arguments = (made.export, folder / "users.parquet", folder / "scores.npy")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, env=environment)
    expected = np.stack([own.score(made.data.user_rows) for own in made.models], axis=1)
    np.testing.assert_allclose(np.load(folder / "scores.npy"), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("change", "message"), WRONG[:-2])
def test_users_of_another_form_are_refused(made, change, message):
    with pytest.raises(InputError, match=message) as refused:
        open_export(made.export).check_sample(change(made.users).to_arrow())
    assert "\n" not in str(refused.value)


def test_unseen_values_are_told_of(made, recwarn):
    scorer = open_export(made.export)
    scorer.check_sample(made.users.to_arrow())
    assert not recwarn
    unseen = made.users.with_columns(likes=pl.lit(["milk"]).repeat_by(1).list.first())
    with pytest.warns(UserWarning, match="column 'likes': .* 100% are unseen.*'milk'"):
        scorer.check_sample(unseen.to_arrow())


def test_a_program_of_another_jax_is_refused(made, monkeypatch):
    def newer(content):
        raise ValueError("calling convention version 99")

    monkeypatch.setattr(module.jax_export, "deserialize", newer)
    refused = r"cannot read the program, which is for jax .* newer; export the campaign"
    with pytest.raises(InputError, match=refused):
        open_export(made.export)


def test_operations_that_this_jax_lacks_are_refused_at_once(made):
    """In the driver; jax itself reads them when it compiles, which a worker does."""
    export = read_export(made.export)
    unknown = export.files[PROGRAM].replace(b"dot_general_v", b"dot_general_w")
    with pytest.raises(InputError, match="cannot read the program, which is for jax"):
        ArrowScorer(replace(export, files={**export.files, PROGRAM: unknown}))


def test_an_older_jax_is_told_that_it_may_not_read_long(made, monkeypatch):
    monkeypatch.setattr(jax, "__version_info__", (0, 9))
    with pytest.warns(UserWarning, match="is for jax .* 3 weeks older.*, this is"):
        open_export(made.export)
