"""All runs of a comparison: what the commands share.

OUT holds a folder a run (see `job`), one of the tuning's trials, and what is drawn from them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from experiments import console as ui
from experiments import report, tuning
from experiments.job import (
    Data,
    check_run,
    clear_run,
    configuration,
    describe,
    open_run,
    run_methods,
)
from experiments.methods import DEFAULT, METHODS, choose
from experiments.methods.method import Job
from experiments.report import Comparison
from metaheac_jax.presets import Preset
from metaheac_jax.progress import Progress

#: What a comparison leaves in OUT besides the runs' folders.
OUTPUTS = ("results.json", "campaigns.jsonl", "report.md", "report.html")
OUTPUTS += (
    "tuning.json",
    "auc.png",
    "auc_by_seeds.png",
    "fine_tuning.png",
    "space.png",
    "gate.png",
)


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What every command has that compares methods."""

    preset: Literal["paper", "official"] = "paper"
    """Settings: what the paper prints, or what the authors' program does."""
    methods: tuple[str, ...] = DEFAULT
    """Which to train, by name, or all; a name that there is not lists those that there are."""
    runs: int = 1
    """Runs; each has its own split, initial values and batches, and its own simulated world."""
    seed: int = 0
    """Of the first run; the others follow."""
    out: Path = Path("runs")
    """Folder for the results; a run there is replaced, unless --resume."""
    resume: bool = False
    """Go on with the runs in --out where they stopped."""
    tune: Literal["rates", "all"] | None = None
    """Choose the learning rates of every method on held-out training campaigns first; all: and the
    numbers of experts and critics, too. Default: those that were chosen so before."""

    @property
    def seeds(self) -> list[int]:
        """One a run."""
        return list(range(self.seed, self.seed + self.runs))


def check_options(options: RunOptions) -> None:
    """Refuses options that no run can have.

    Raises:
      InputError: it names the option.
    """
    choose(options.methods)
    ui.check_least("--runs", options.runs, 1)
    ui.check_least("--seed", options.seed, 0)


def run_all(
    options: RunOptions,
    load: Callable[[int, Progress], Data],
    *,
    world: str | None,
    preset: Preset,
    settings: Mapping[str, Any],
    progress: Progress,
    published: str | None = None,
    campaigns: str = "campaigns",
) -> Comparison:
    """Every run of a command, each in its own folder, ``OUT/seed-R``; before them the tuning.

    Args:
      options: of the command.
      load: ``load(seed, progress)`` gives what a run works on.
      world: whose tuning is used without --tune, see `tuning.chosen_before`; None for none. The
        official preset stands as it is.
      preset: settings of all methods but their own.
      settings: whatever else must not change between a run and its resumption.
      progress: told what is under way.
      published: whose figures of the paper belong beside the results.
      campaigns: what a title calls them.
    """
    ui.keep_compiled()
    names, runs = choose(options.methods), []
    title, about, tuned, told = "", {}, {}, progress
    for number, seed in enumerate(options.seeds):
        if options.runs > 1:

            def told(what: str, done: int, total: int, number: int = number) -> None:
                progress(f"run {number + 1} of {options.runs}, {what}", done, total)

        data = load(seed, told)
        check_run(data.dataset, data.split, preset)
        facts = describe(data.dataset, data.split)
        if not runs:
            title = report.title(facts, options.preset, options.runs, campaigns=campaigns)
            about = {**facts, "preset": options.preset}
            if not options.resume:
                _clear(options.out)
            if options.tune is not None:
                config = configuration(preset, seed=seed, **settings, **facts)
                tuned = _tune(options, data, preset, config, told)
            elif options.preset == "paper":
                tuned = tuning.chosen_before(world)
            preset = tuning.with_sizes(preset, tuned)
        directory = options.out / f"seed-{seed}"
        # What was begun first must be there to be resumed; the rest may not have begun.
        first = not runs and options.tune is None
        resume = options.resume and (first or (directory / "config.json").is_file())
        config = configuration(preset, seed=seed, **settings, **facts)
        open_run(directory, config, resume=resume)
        presets = {n: tuning.with_rates(METHODS[n].preset(preset), tuned, n) for n in names}
        first = not runs  # which figures show
        results = run_methods(
            data, presets, seed=seed, directory=directory, progress=told, figures=first
        )
        runs.append(results)
    shown = tuned if options.tune else None
    return Comparison(title, options.seeds, runs, about, published, shown)


def _clear(out: Path) -> None:
    """Removes an older comparison, so that none of its runs is taken for one of the new."""
    runs = [config.parent for config in out.glob("*/config.json")]
    runs = [run for run in runs if run.name == "tuning" or run.name.startswith("seed-")]
    for run in runs:
        clear_run(run)
    for name in OUTPUTS if runs else ():  # elsewhere a results.json is somebody else's
        (out / name).unlink(missing_ok=True)


def _tune(
    options: RunOptions, data: Data, preset: Preset, config: dict[str, Any], progress: Progress
) -> tuning.Tuning:
    """Tunes on the first run's training campaigns; OUT/tuning has the trials."""
    directory = options.out / "tuning"
    held = tuning.hold_out(data.split, options.seed)
    dataset = tuning.with_pools(data.dataset, held.test, options.seed)
    check_run(dataset, held, preset)
    open_run(directory, config, resume=options.resume)
    job = Job(
        dataset=dataset,
        campaigns=held.train,
        preset=preset,
        seed=options.seed,
        directory=directory,
        log=directory / "log.jsonl",
        progress=progress,
    )
    return tuning.tune(job, held, choose(options.methods), sizes=options.tune == "all")
