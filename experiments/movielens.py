"""The comparison on MovieLens-100K, where a movie is a campaign.

A user who rated a movie 4 or 5 has converted. The files are ml-100k.inter, .user and .item in the
atomic format of RecBole, whose wheel contains them (see the README). They may not be redistributed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from experiments.comparison import report
from experiments.comparison.run import Data
from experiments.comparison.runs import RunOptions, check_options, run_all
from metaheac_jax.cli import terminal
from metaheac_jax.data.sources.movielens import build_movielens, user_references
from metaheac_jax.files import locked
from metaheac_jax.settings import SETTINGS

#: An epoch of a movie is about one step, so more epochs are needed to converge.
ONLINE_EPOCHS = 20


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains and judges the methods on MovieLens-100K; reports mean and deviation over the runs.

    Writes results.json, campaigns.jsonl, report.md, report.html, figures and checkpoints to --out
    and prints the tables. Two references ignore the campaign: the activity of a user, and the
    fraction of the user's ratings that are likes.
    """

    data_dir: Path
    """Folder with ml-100k.inter, ml-100k.user and ml-100k.item (RecBole's atomic files)."""
    non_seeds: Literal["pool", "exposed"] = "pool"
    """Non-seeds: a sample of the users who did not rate the movie, or all who rated it below 4."""
    runs: int = 5
    """Number of runs; each has its own split, initial values and batches."""
    out: Path = Path("runs/movielens")
    """Folder for the results. An existing run in it is replaced, unless --resume is given."""


def main(options: Options) -> None:
    """Runs the command."""
    check_options(options)
    screen, settings = terminal.screen(), SETTINGS[options.preset]
    if options.preset == "paper":
        settings = replace(settings, online_epochs=ONLINE_EPOCHS)
    with locked(options.out):
        with terminal.progress_display(screen) as progress:
            comparison = run_all(
                options,
                lambda seed, _: load(options, seed),
                world="movielens",  # tuned for "pool", used for both kinds of non-seeds
                settings=settings,
                more_config={"non_seeds": options.non_seeds},
                progress=progress,
                campaigns="movies",
            )
        report.write(options.out, comparison, screen)


def load(options: Options, seed: int) -> Data:
    """The dataset and split of a run, and reference scores that ignore the campaign."""
    dataset, split = build_movielens(options.data_dir, seed=seed, non_seeds=options.non_seeds)
    references = user_references(dataset, split.train, dataset.stage2)
    return Data(
        dataset,
        split,
        {
            "activity (no campaign)": references.activity,
            "like-rate (no campaign)": references.like_rate,
        },
        independent_runs=False,
    )


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.movielens")
