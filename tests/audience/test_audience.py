"""The files of an audience, and what changed since an earlier one."""

import csv
import gzip

import numpy as np
import polars as pl
import pytest
from commands import contents
from hypothesis import given
from hypothesis import strategies as st

from metaheac_jax.audience.audience import Audience, Refresh
from metaheac_jax.cli.campaigns import read_audience
from metaheac_jax.errors import InputError

SCORES = np.array([1 / 3, 1e-9, -2.5], np.float32)
NUMBERS, TEXTS = np.array([2**60 + 1, -7, 12]), np.array(["é, 1", '"x"', "7"])
PROBABILITIES = np.array([0.5, 0.25, 0.125])


def text_of(path):
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode()


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
@pytest.mark.parametrize("ids", [NUMBERS, TEXTS])
@pytest.mark.parametrize("probabilities", [None, PROBABILITIES])
def test_a_file_has_rank_user_score_and_perhaps_probability(tmp_path, ending, ids, probabilities):
    path = tmp_path / f"audience{ending}"
    Audience(ids, SCORES, 9, 41, probabilities).write(str(path))
    names = ["rank", "user_id", "score"] + ["probability"] * (probabilities is not None)
    if ending == ".parquet":
        frame = pl.read_parquet(path)
        assert frame.columns == names
        columns = [frame[name].to_list() for name in names]
    else:
        header, *lines = csv.reader(text_of(path).splitlines())
        assert header == names
        columns = list(map(list, zip(*lines, strict=True)))
        assert text_of(path).count("\r") == 0
    assert list(map(int, columns[0])) == [41, 42, 43]
    assert [type(ids[0].item())(user) for user in columns[1]] == ids.tolist()
    assert np.array(columns[2], np.float32).tolist() == SCORES.tolist()  # they are exact
    if probabilities is not None:
        assert list(map(float, columns[3])) == probabilities.tolist()
    assert Audience(read_audience(path, text=ids is TEXTS), SCORES, 9).user_ids.tolist() == list(
        ids
    )
    assert contents(tmp_path) == {path.name}


def test_a_file_that_cannot_be_written_whole_leaves_the_older_one(tmp_path):
    path = tmp_path / "audience.csv"
    path.write_text("older")
    broken = Audience(np.arange(3), np.zeros(2, np.float32), 3)
    with pytest.raises(pl.exceptions.PolarsError):
        broken.write(path)
    assert path.read_text() == "older"
    assert contents(tmp_path) == {"audience.csv"}


@pytest.mark.parametrize("name", ["audience", "audience.xlsx", "audience.gz", "csv"])
def test_other_endings_are_refused(tmp_path, name):
    with pytest.raises(InputError, match=r"expected a name that ends with \.parquet or \.csv"):
        Audience(NUMBERS, SCORES, 3).write(tmp_path / name)
    assert contents(tmp_path) == set()


@given(st.sets(st.integers(0, 30)), st.lists(st.integers(0, 30)), st.booleans())
def test_users_kept_new_and_gone(now, before, text):
    kind = "S2" if text else int
    audience = Audience(np.array(sorted(now), int).astype(kind), np.zeros(len(now)), 99)
    found = audience.compare(list(map(str if text else int, before)))
    assert found == Refresh(len(now & set(before)), len(now - set(before)), len(set(before) - now))
