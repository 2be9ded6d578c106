"""The file of audiences: every cell is exact, and no text is a formula."""

import csv
import gzip

import polars as pl
import pytest

from metaheac_jax.audience.expanding import write_frame

SCORES = pl.Series([1 / 3, 1e-9, -2.5], dtype=pl.Float32)


def rows(path):
    """The cells of a file of any form as text, and its header."""
    if path.suffix == ".parquet":
        frame = pl.read_parquet(path)
        return frame.columns, [list(map(str, row)) for row in frame.iter_rows()]
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    header, *lines = csv.reader(content.decode().splitlines())
    return header, lines


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".PARQUET"])
@pytest.mark.parametrize("ids", [[2**60 + 1, -7, 12], ["é, 1", '"x"', "7"]])
def test_a_file_has_the_rows_of_an_audience(tmp_path, ending, ids):
    path = tmp_path / f"a{ending}"
    write_frame(path, pl.DataFrame({"user_id": ids, "score": SCORES}))
    header, found = rows(path.rename(tmp_path / path.name.lower()))
    assert header == ["user_id", "score"]
    assert [row[0] for row in found] == [str(own) for own in ids]
    assert pl.Series([float(row[1]) for row in found], dtype=pl.Float32).equals(SCORES)
