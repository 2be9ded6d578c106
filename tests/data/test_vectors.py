"""Vectors of users: read from tables, standardised, and read by every method."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import polars as pl
import pytest
from toy import check_data, dataset, tiny

import metaheac_jax as mh
from metaheac_jax.audience.evaluating import pool_rows
from metaheac_jax.audience.explaining import audience_traits
from metaheac_jax.data.coordinates import leading_components
from metaheac_jax.data.preparing import infer_schema
from metaheac_jax.data.views import UserView
from metaheac_jax.engines.arrow import open_export
from metaheac_jax.errors import InputError
from metaheac_jax.ranking import auc
from metaheac_jax.schema import Field, Schema, Vocabulary
from metaheac_jax.table.layout import Ids
from metaheac_jax.table.sparse import full_lists, value_counts


def with_vector(data, numbers):
    """The data with a vector of users as its first field."""
    count = numbers.shape[1]
    rows = np.arange(data.num_rows + 1, dtype=np.int32) + count
    return replace(
        data,
        schema=replace(data.schema, user=(*data.schema.user, Field("taste", vector=count))),
        vocabulary=Vocabulary((np.arange(count), *data.vocabulary.values)),
        user_rows=replace(data.user_rows.mapped(rows), numbers=numbers.astype(np.float32)),
        campaign_rows=rows[data.campaign_rows],
    )


PLAIN = dataset(users=600, campaigns=16, per_campaign=200, pool=100)
NUMBERS = np.random.default_rng(0).normal(size=(600, 3))
DATA = with_vector(PLAIN, NUMBERS)


@pytest.mark.parametrize(("count", "width"), [(7, 2), (2, 5)])
def test_a_field_vector_is_the_sum_of_numbers_times_rows(count, width):
    """Whether a vector has more components than an embedding or fewer."""
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(600, count)).astype(np.float32)
    data = with_vector(PLAIN, numbers)
    table = rng.normal(size=(data.num_rows, width)).astype(np.float32)
    users = data.user_rows[:20]
    assert data.schema.user[0].name == "taste"
    fields = data.layout.users(jnp.asarray(table), users).dense()
    np.testing.assert_allclose(fields[:, 0], numbers[:20] @ table[:count], atol=1e-5)
    others = PLAIN.layout.users(jnp.asarray(table[count:]), PLAIN.user_rows[:20]).dense()
    np.testing.assert_allclose(fields[:, 1:], others, atol=1e-5)
    summed = data.layout.summed(jnp.asarray(table), jnp.asarray(users))
    np.testing.assert_allclose(summed, fields.sum(axis=1), atol=1e-4)


def test_sparse_values_of_users_have_the_numbers():
    users = DATA.user_rows[:20]
    counts = value_counts(DATA.layout, users, DATA.num_rows).toarray()
    lists, num_slots = full_lists(DATA.layout, users, DATA.num_rows)
    for found in (counts, lists.toarray()):
        np.testing.assert_allclose(found[:, :3], NUMBERS[:20], rtol=1e-6)
    others = value_counts(PLAIN.layout, PLAIN.user_rows[:20], PLAIN.num_rows).toarray()
    np.testing.assert_array_equal(counts[:, 3:], others)
    np.testing.assert_array_equal(num_slots[:3], 1)
    padded = np.full_like(users, DATA.num_rows)
    assert value_counts(DATA.layout, padded, DATA.num_rows).nnz == 0


def test_numbers_stay_as_they_are_in_a_step_and_beside_list_lengths():
    users = DATA.user_rows[:50]
    index = DATA.layout.row_index(DATA.num_rows)
    ids = Ids(users, DATA.campaign_rows[0])
    touched = index.distinct(ids)
    assert set(range(3)) <= {*touched.tolist()} <= {*range(DATA.num_rows)}
    rows, local = index.renumber(touched, len(touched) + 5, ids)
    np.testing.assert_array_equal(local.user[:, :3], users[:, :3])
    np.testing.assert_array_equal(rows[local.user[:, 3:].clip(max=len(touched))], users[:, 3:])
    longer = DATA.lengthened()[0]
    check_data(longer)
    np.testing.assert_array_equal(longer.user_rows[:50][:, :3], users[:, :3])


def told(numbers, seed=0):
    """Data whose labels depend on the first number alone."""
    rng, data = np.random.default_rng(seed), with_vector(PLAIN, numbers)
    stages = [
        replace(
            own, label=(rng.random(len(own.user)) < 1 / (1 + np.exp(-3 * numbers[own.user, 0])))
        )
        for own in (data.stage1, data.stage2)
    ]
    stages = [replace(own, label=own.label.astype(np.int8)) for own in stages]
    return replace(data, stage1=stages[0], stage2=stages[1])


@pytest.mark.parametrize(
    "name",
    [
        "lr",
        "learned-prior",
        *(
            pytest.param(own, marks=pytest.mark.slow)
            for own in ("solved-head", "metaheac", "ensemble")
        ),
    ],
)
def test_every_method_reads_a_vector(name):
    data = told(NUMBERS)
    options = {"offline_epochs": 12, "offline_patience": None, "outer_learning_rate": 0.02}
    options = {} if name in ("lr", "learned-prior") else options
    general = mh.fit(data, tiny(name, **options), campaigns=np.arange(12))
    models = mh.customise(general, data, [data.campaign(c) for c in range(12, 16)])
    for c, model in enumerate(models, start=12):
        labels = data.stage2.label[data.stage2.of(c)]
        assert auc(model.score(pool_rows(data, c)), labels) > 0.8


def test_leading_components():
    rng = np.random.default_rng(1)
    numbers = rng.normal(size=(500, 1)) * [3, -3, 0.1, 0.1] + 0.1 * rng.normal(size=(500, 4))
    [first] = leading_components(numbers, 1).T
    np.testing.assert_allclose(np.abs(first), [0.707, 0.707, 0.02, 0.02], atol=0.03)
    np.testing.assert_array_equal(leading_components(numbers, 6), np.eye(4, 6))


# Tables -----------------------------------------------------------------------------------------


def tables(folder, vectors, kind=None):
    folder.mkdir(parents=True)
    n = len(vectors)
    users = pl.DataFrame({"user_id": range(n), "city": [f"c{u % 3}" for u in range(n)]})
    users = users.with_columns(taste=pl.Series(vectors, dtype=kind))
    users.write_parquet(folder / "users.parquet")
    pl.DataFrame({"campaign_id": [1, 2, 3], "topic": list("aba")}).write_csv(
        folder / "campaigns.csv"
    )
    rng = np.random.default_rng(0)
    rows = [
        (c, int(u), int(rng.random() < 0.6)) for c in (1, 2, 3) for u in rng.permutation(n)[:100]
    ]
    frame = pl.DataFrame(rows, ["campaign_id", "user_id", "label"], orient="row")
    frame.write_csv(folder / "examples.csv")
    return folder


VECTORS = np.random.default_rng(2).normal(2, 3, (200, 4)).round(3)


@pytest.mark.parametrize("kind", [pl.List(pl.Float64), pl.Array(pl.Float32, 4)])
def test_a_vector_is_inferred_and_standardised(tmp_path, kind):
    vectors = [*VECTORS[:-1].tolist(), None]
    folder = tables(tmp_path / "tables", vectors, kind)
    assert infer_schema(mh.data.preparing.find_tables(folder)).user[0] == Field("taste", vector=4)
    data = mh.prepare(folder, tmp_path / "data")
    check_data(data)
    known = VECTORS[:-1]
    expected = np.vstack([(known - known.mean(axis=0)) / known.std(axis=0), np.zeros(4)])
    numbers = data.layout.numbers(data.user_rows[data.find_users(range(200))])
    np.testing.assert_allclose(numbers, expected, atol=1e-5)
    schema = Schema.read(tmp_path / "data" / "schema.json")
    assert Schema.from_json(schema.to_json()) == schema
    again = mh.prepare(folder, tmp_path / "again", schema=schema)
    np.testing.assert_array_equal(again.user_rows[:], data.user_rows[:])
    fewer = mh.add(again, exclude=[0, 7], examples=pl.read_csv(folder / "examples.csv"))
    kept = fewer.layout.numbers(fewer.user_rows[fewer.find_users([1, 2, 199])])
    np.testing.assert_allclose(kept, expected[[1, 2, 199]], atol=1e-5)
    assert fewer.num_users == 198


@pytest.mark.parametrize(
    "wrong", [[1.0, 2.0, 3.0], [1.0, float("nan"), 0.0, 0.0], [1.0, None, 0.0, 0.0]]
)
def test_a_wrong_vector_is_one_line_with_its_row(tmp_path, wrong):
    vectors = VECTORS.tolist()
    vectors[8] = wrong
    folder = tables(tmp_path / "tables", vectors, pl.List(pl.Float64))
    schema = Schema((Field("taste", vector=4),), (Field("topic"),))
    with pytest.raises(InputError, match=r"users.parquet.*row 9.*taste.*list of 4 finite numbers"):
        mh.prepare(folder, tmp_path / "data", schema=schema)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"center": (1, 2)},
        {"slots": 3},
        {"scale": (1, 0, 1, 1), "center": (0,) * 4},
        {"sensitive": True},
        {"buckets": 3},
    ],
)
def test_a_wrong_field_is_refused(options):
    with pytest.raises(InputError, match="'taste'"):
        Field("taste", **{"vector": 4} | options)


def test_a_vector_may_be_all_that_is_known(tmp_path):
    folder = tables(tmp_path / "tables", VECTORS.tolist(), pl.List(pl.Float64))
    schema = Schema((Field("taste", vector=4),), (Field("topic"),))
    data = mh.prepare(folder, tmp_path / "data", schema=schema)
    assert data.user_rows.shape == (200, 4)
    assert mh.expand(mh.fit(data, tiny("lr")), data, 1, size=5).height == 5


def test_a_number_that_is_too_large_once_it_is_scaled_is_refused(tmp_path):
    folder = tables(tmp_path / "tables", VECTORS.tolist(), pl.List(pl.Float64))
    data = mh.prepare(folder, tmp_path / "data")
    vectors = VECTORS.copy()
    vectors[6, 2] = 1e300
    users = pl.read_parquet(folder / "users.parquet").with_columns(taste=vectors)
    users.with_columns(pl.col("taste").arr.to_list()).write_parquet(folder / "users.parquet")
    with pytest.raises(InputError, match=r"row 7.*'taste'"):
        mh.prepare(folder, tmp_path / "again", schema=data.schema)


def test_an_export_reads_the_column(tmp_path):
    folder = tables(tmp_path / "tables", VECTORS.tolist(), pl.List(pl.Float64))
    data = mh.prepare(folder, tmp_path / "data")
    general = mh.fit(data, tiny("lr"))
    [model] = mh.customise(general, data, [data.campaign(0)])
    mh.export_scorer(model, tmp_path / "export")
    scorer, users = open_export(tmp_path / "export"), pl.read_parquet(folder / "users.parquet")
    rows = data.user_rows[data.find_users(users["user_id"].to_numpy())]
    found = scorer(users.to_arrow())[:, 0]
    np.testing.assert_allclose(found, model.score(rows), atol=1e-5)
    short = users.with_columns(taste=pl.col("taste").list.head(3)).to_arrow()
    with pytest.raises(InputError, match="users: row 1: column 'taste' has no 4 finite numbers"):
        scorer(short)
    words = users.with_columns(taste=pl.col("taste").cast(pl.List(pl.String))).to_arrow()
    with pytest.raises(InputError, match=r"'taste' is of type .*expected lists of 4 numbers"):
        scorer(words)
    assert {
        own.field for own in audience_traits(data, np.arange(200) < 180, np.ones(200, bool))
    } <= {"city"}
    page = mh.explain(general, data, 1, size=20)
    assert "taste" in {own.field for own in page.fields}


def test_a_view_without_numbers_has_none():
    view = UserView(np.zeros((3, 2), np.int32), np.ones((3, 4), np.float32))
    assert view.shape == (3, 6)
    assert view.without_numbers[:].shape == (3, 2)
