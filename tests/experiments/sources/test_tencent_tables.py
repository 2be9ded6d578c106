"""The competition's files as tables: the same data, bit for bit."""

import numpy as np
import polars as pl
import pytest
import tencent_files
import tencent_world

from experiments.sources import tencent
from metaheac_jax.data.columns import Column
from metaheac_jax.data.from_tables import prepare
from metaheac_jax.data.schema_file import TableSchema
from metaheac_jax.schema import TENCENT


def tables(data, source):
    """The tables of users, campaigns and examples from which the files' data are made again."""
    schema, rows = data.schema, np.array(data.user_rows)
    raw = np.concatenate([*data.vocabulary.values, [-1]])  # the pad id is missing, too
    users, start = {"uid": np.array(data.user_ids)}, 0
    for field in schema.user:
        cells = raw[rows[:, start : start + field.slots]].tolist()
        start += field.slots
        if field.slots == 1:
            users[field.name] = [None if own == [-1] else own[0] for own in cells]
        else:
            users[field.name] = [[value for value in own if value != -1] for own in cells]
    campaigns = {"aid": np.array(data.campaign_ids)}
    for number, field in enumerate(schema.campaign):
        campaigns[field.name] = raw[data.campaign_rows[:, number]]
    names, label = ["aid", "uid", "label"], (pl.col("label") == 1).cast(pl.Int8)
    files = ((source / "train.csv", True), (source / "test1_truth.csv", False))
    examples = [
        pl.read_csv(path, has_header=header, new_columns=names).with_columns(
            label=label, stage=pl.lit(stage)
        )
        for stage, (path, header) in enumerate(files, start=1)
    ]
    return pl.DataFrame(users), pl.DataFrame(campaigns)[::-1], pl.concat(examples)


@pytest.mark.parametrize("form", ["parquet", "csv"])
@pytest.mark.parametrize(
    ("files", "schema"), [(tencent_world, TENCENT), (tencent_files, tencent_files.SCHEMA)]
)
def test_tables_of_the_files_are_the_same_data(tmp_path, files, schema, form):
    data = tencent.prepare(files.write(tmp_path / "files"), tmp_path / "old", schema=schema)
    separator = ";" if form == "csv" else ""
    for name, frame in zip(
        ("users", "campaigns", "examples"), tables(data, tmp_path / "files"), strict=True
    ):
        if form == "parquet":
            frame.write_parquet(tmp_path / f"{name}.parquet")
            continue
        lists = [own for own in frame.columns if frame[own].dtype == pl.List]
        joined = [pl.col(own).cast(pl.List(pl.String)).list.join(separator) for own in lists]
        frame.with_columns(joined).write_csv(tmp_path / f"{name}.csv")
    table_schema = TableSchema(
        user=tuple(
            Column(own.name, own.slots, separator=separator if own.slots > 1 else "")
            for own in schema.user
        ),
        campaign=tuple(Column(own.name) for own in schema.campaign),
        user_id="uid",
        campaign_id="aid",
    )
    again = prepare(tmp_path, tmp_path / "new", schema=table_schema)
    assert again.schema == data.schema
    pairs = [(data, again, ("user_ids", "user_rows", "campaign_ids", "campaign_rows"))]
    pairs += [
        (getattr(data, stage), getattr(again, stage), ("offsets", "user", "label"))
        for stage in ("stage1", "stage2")
    ]
    for one, other, names in pairs:
        for name in names:
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
            assert getattr(one, name).dtype == getattr(other, name).dtype
