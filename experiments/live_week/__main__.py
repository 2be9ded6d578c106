"""The command ``python -m experiments.live_week``; see the package."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from experiments.comparison.provenance import PLACES, command_of, describe_origin
from experiments.comparison.run_folder import open_run
from experiments.comparison.tuning import describe, tuned_before, tuned_method
from experiments.live_week.lifts import Experiment
from experiments.live_week.report import OUTPUTS, write_report
from experiments.live_week.week import Week
from experiments.live_week.worlds import APPLICATIONS, load_world, seed_of_world, world_shape
from metaheac_jax.cli import terminal
from metaheac_jax.data.simulation.world import count_examples
from metaheac_jax.environment import MayChange
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked
from metaheac_jax.methods import Method, method_named
from metaheac_jax.progress import Progress, prefixed
from metaheac_jax.settings import PAPER


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulates weeks of MetaHeac against control methods in three applications, and an A/A test.

    Writes results.json, report.md and a figure to --out, and prints the lifts of exposure,
    conversion and conversion rate with 95% intervals.
    """

    treatment: str = "metaheac"
    """Method of the treatment arm, and of both arms of the A/A test; any method of the library."""
    control: tuple[str, ...] = ("mlp-one-stage", "mlp-pretraining")
    """Methods of the control arms. Each is tested against the treatment."""
    weeks: int = 5
    """Repetitions of the test, at least two. Each has its own worlds, splits, buckets, outcomes and
    models. The intervals are over weeks."""
    days: int = 7
    """Number of days in a week."""
    users: int = 60_000
    """Users of each application's simulated world; there are four examples for five users."""
    campaigns: int = 60
    """Campaigns of each application. 40% of them run; the general model learns from the others."""
    audience: float = 0.02
    """Share of its bucket that an arm takes for each campaign on each day."""
    general_every: int = 1
    """Days between trainings of the general model with the feedback; with the value of --days, it
    is trained only before the week. Models are customised again every day in any case."""
    seed: int = 0
    """Random seed of the first week; the other weeks follow."""
    out: Path = Path("runs/live_week")
    """Folder for the results. An existing test in it is replaced, unless --resume is given."""
    resume: bool = False
    """Continue the test in --out. Finished arms stay, so methods and weeks may be added. (Adding
    weeks until an interval excludes 0 proves nothing.)"""
    allow_change: tuple[MayChange, ...] = ()
    """With --resume, what may have changed since the test began, such as a library's version."""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds and prepared data, which later tests use again."""


def main(options: Options) -> None:
    """Runs the command."""
    check_options(options)
    terminal.keep_compiled()
    with locked(options.out):
        run_weeks(options)


def run_weeks(options: Options) -> None:
    """Runs what is not yet in --out, and writes the report."""
    screen = terminal.screen()
    config = asdict(options) | {"settings": asdict(PAPER)}
    for name in ("treatment", "control", "weeks", "out", "resume", "allow_change", "cache_dir"):
        del config[name]
    open_run(options.out, config, resume=options.resume, allow_changes=options.allow_change)
    if not options.resume:
        for name in OUTPUTS:
            (options.out / name).unlink(missing_ok=True)
    tuning = tuned_before("tencent")
    names = (options.treatment, *options.control)
    methods = {name: tuned_method(name, PAPER, tuning) for name in names}
    with terminal.progress_display(screen) as progress:
        found = [run_application(options, name, methods, progress) for name in APPLICATIONS]
    results = [result for _, of in found for result in of]
    about = {"command": command_of(options), "data": "simulated worlds"}
    about["tuned"] = describe(names, tuning)
    write_report(
        [experiment for experiments, _ in found for experiment in experiments],
        options.out,
        title=report_title(options),
        options={name: v for name, v in asdict(options).items() if name not in PLACES},
        origin=describe_origin(about, results),
        screen=screen,
    )


def check_options(options: Options) -> None:
    """Refuses options that no test can have.

    Raises:
      InputError: there is one; the message names it.
    """
    for name in (options.treatment, *options.control):
        method_named(name)
    if options.treatment in options.control:
        raise InputError(
            f"--control: {options.treatment} is the treatment, which the A/A test compares with "
            "itself anyway"
        )
    for option, value, minimum in (
        ("--weeks", options.weeks, 2),
        ("--days", options.days, 1),
        ("--users", options.users, 1),
        ("--campaigns", options.campaigns, 10),
        ("--general-every", options.general_every, 1),
        ("--seed", options.seed, 0),
    ):
        terminal.check_minimum(option, value, minimum)
    if not 0 < options.audience * options.days <= 1:
        raise InputError(
            f"--audience: expected a share above 0 and at most 1 / days, got {options.audience}"
        )
    if round(options.audience * options.users / 2) < 1:
        raise InputError(
            f"--audience: {options.audience} of half of {options.users} users is less than one "
            "user; raise --audience or --users"
        )
    for application, week in product(APPLICATIONS, range(options.weeks)):
        # Refuses too few users, before an earlier test is replaced.
        count_examples(
            users=options.users,
            min_pool_examples=0,
            seed=seed_of_world(application, options.seed + week),
            shape=world_shape(application, options.campaigns),
        )


def run_application(
    options: Options, application: str, methods: Mapping[str, Method], progress: Progress
) -> tuple[list[Experiment], list[dict[str, Any]]]:
    """Runs all weeks of an application; returns its experiments, and the results of all arms."""
    weeks, results = [], []
    for number in range(options.weeks):
        seed = options.seed + number
        prefix = f"{application}, week {number + 1} of {options.weeks}, "
        week_progress = prefixed(progress, prefix)
        world = load_world(
            application,
            num_users=options.users,
            num_campaigns=options.campaigns,
            seed=seed,
            cache_dir=options.cache_dir,
            progress=week_progress,
        )
        week = Week(
            f"{application}-seed-{seed}",
            world,
            methods,
            seed=seed,
            num_days=options.days,
            audience=options.audience,
            general_every=options.general_every,
            run_folder=options.out,
            allow_changes=options.allow_change,
            progress=week_progress,
        )
        weeks.append(week.totals(options.treatment, options.control))
        results += week.results.values()
    experiments = [
        Experiment(application, title, np.stack([totals[title] for totals in weeks]))
        for title in weeks[0]
    ]
    return experiments, results


def report_title(options: Options) -> str:
    """The title of the report."""
    last_seed = options.seed + options.weeks - 1
    return (
        f"Lifts in {options.weeks} simulated tests of {options.days} days "
        f"(seeds {options.seed} to {last_seed}): of each application {options.campaigns} "
        f"campaigns, 40% of them running, and {options.users:,} users"
    )


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.live_week")
