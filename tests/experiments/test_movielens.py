"""The MovieLens comparison as a user runs it, on tiny files."""

from pathlib import Path

import commands
import pytest
from commands import contents, succeeds, tiny_settings
from toy_movielens import toy_ratings, write_toy

from experiments import movielens
from experiments.comparison import report
from experiments.comparison.results import load

COMMAND = commands.module(movielens)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings():
        yield


def write_movies(directory: Path) -> Path:
    """150 users and 10 movies, which four users in five like or rate lower."""
    return write_toy(directory, toy_ratings(150, 10, seed=3, liked=0.5, lower=0.3), 150, 10)


def test_movielens_over_runs(tmp_path):
    source, out = write_movies(tmp_path / "data"), tmp_path / "out"
    succeeds(COMMAND, "--data-dir", source, "--runs", 2, "--methods", "lr", "--out", out)
    assert contents(out) == {"seed-0", "seed-1", *report.OUTPUTS}
    stored = load(out / report.RESULTS)
    assert not stored.independent_runs  # they divide the same movies
    assert stored.seeds == [0, 1]
    others = ["like-rate (no campaign)", "matrix factorisation", "LR on one-hot histories"]
    assert list(stored.methods) == ["lr", *others]
    text = (out / "report.md").read_text()
    assert "| like-rate (no campaign) | " in text
    assert "[paper]" not in text
    command = f"python -m experiments.movielens --methods lr --runs 2 --data-dir {source.name}"
    assert command in text
