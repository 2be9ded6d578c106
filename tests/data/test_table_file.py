"""Files of tables: what is written is read, every cell is exact, and no text is a formula."""

import csv
import gzip

import polars as pl
import pytest

from metaheac_jax.data.table_file import FORMATS, Table, write_table

SCORES = pl.Series([1 / 3, 1e-9, -2.5], dtype=pl.Float32)


@pytest.mark.parametrize("ending", [*FORMATS, ".CSV", ".Parquet"])
@pytest.mark.parametrize("ids", [[2**60 + 1, -7, 12], ["é, 1", "=x", "7"]])
def test_what_is_written_is_read(tmp_path, ending, ids):
    path = tmp_path / f"a{ending}"
    write_table(path, pl.DataFrame({"user_id": ids, "score": SCORES}))
    table = Table(path)
    assert table.names == ["user_id", "score"]
    assert table.ids("user_id").to_list() == ids
    score = table.collect(table.scan())["score"].cast(pl.Float32)
    assert score.equals(SCORES)


def test_no_text_of_a_csv_file_is_a_formula(tmp_path):
    path = tmp_path / "a.csv.gz"
    write_table(path, pl.DataFrame({"user_id": ["é, 1", '"x"', "=7"], "score": SCORES}))
    [header, *lines] = csv.reader(gzip.decompress(path.read_bytes()).decode().splitlines())
    assert header == ["user_id", "score"]
    assert [line[0] for line in lines] == ["é, 1", '"x"', "'=7"]
