"""An audience as a table, and the file of several."""

import csv
import gzip

import numpy as np
import polars as pl
import pytest

from metaheac_jax.audience.retrieve import Audience, write_frame
from metaheac_jax.errors import InputError

SCORES = np.array([1 / 3, 1e-9, -2.5], np.float32)
NUMBERS, TEXTS = np.array([2**60 + 1, -7, 12]), np.array(["é, 1", '"x"', "7"])
CHANCES = np.array([0.5, 0.25, 0.125], np.float32)


def rows(path):
    """The cells of a file of any form as text, and its header."""
    if path.suffix == ".parquet":
        frame = pl.read_parquet(path)
        return frame.columns, [list(map(str, row)) for row in frame.iter_rows()]
    content = path.read_bytes()
    content = gzip.decompress(content) if path.suffix == ".gz" else content
    header, *lines = csv.reader(content.decode().splitlines())
    return header, lines


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("ids", [NUMBERS, TEXTS])
@pytest.mark.parametrize("chances", [None, CHANCES])
def test_a_file_has_the_rows_of_an_audience(tmp_path, ending, ids, chances):
    stored = np.char.encode(ids, "utf-8") if ids is TEXTS else ids
    write_frame(tmp_path / f"a{ending}", Audience(2**40, stored, SCORES, 9, chances).frame)
    header, found = rows(tmp_path / f"a{ending}")
    assert header == ["campaign_id", "rank", "user_id", "score", "probability"][: len(header)]
    assert [row[:3] for row in found] == [
        [str(2**40), str(n), str(user)] for n, user in enumerate(ids, 1)
    ]
    assert [np.float32(row[3]) for row in found] == SCORES.tolist()  # they are exact
    assert chances is None or [float(row[4]) for row in found] == chances.tolist()
    assert [own.name for own in tmp_path.iterdir()] == [f"a{ending}"]


@pytest.mark.parametrize("text", ["=1+1", "+x", "-2+3", "@SUM(A1)"])
def test_no_text_of_a_csv_is_a_formula(tmp_path, text):
    frame = Audience(text, np.array([text.encode(), b"a=1"]), SCORES[:2], 9).frame
    write_frame(tmp_path / "a.csv", frame)
    found = rows(tmp_path / "a.csv")[1]
    assert [(row[0], row[2]) for row in found] == [(f"'{text}", f"'{text}"), (f"'{text}", "a=1")]
    assert found[1][3] == "1e-9"  # numbers stay as they are
    write_frame(tmp_path / "a.parquet", frame)
    assert rows(tmp_path / "a.parquet")[1][0][2] == text


def test_a_file_that_cannot_be_written_whole_leaves_the_older_one(tmp_path, monkeypatch):
    path = tmp_path / "audience.parquet"
    path.write_text("older")

    def fail(self, file, **options):
        file.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", fail)
    with pytest.raises(OSError, match="No space left"):
        write_frame(path, pl.DataFrame({"user_id": [1]}))
    assert path.read_text() == "older"
    assert [own.name for own in tmp_path.iterdir()] == ["audience.parquet"]


@pytest.mark.parametrize("name", ["audience", "audience.xlsx", "audience.gz", "csv"])
def test_files_that_are_no_table_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=rf"{name}: expected a name that ends with \.parquet"):
        write_frame(tmp_path / name, pl.DataFrame({"user_id": [1]}))
    assert not list(tmp_path.iterdir())
