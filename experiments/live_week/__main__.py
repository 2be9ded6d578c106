"""The command ``python -m experiments.live_week``; see the package."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from experiments.comparison.methods import build_methods
from experiments.comparison.origin import PLACES, command_of, provenance
from experiments.comparison.tables import Table
from experiments.live_week.lifts import MEASURES, lift_table, week_lifts
from experiments.live_week.week import APPLICATIONS, Week, run_arm
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, write_json
from metaheac_jax.methods.method import Method
from metaheac_jax.progress import Progress, prefixed

NOTES = (
    "Mean of the weeks' lifts (geometric) and its 95% interval, Student's t over the weeks. "
    "Experiments of an application share the treatment arm.",
    "A/A: both arms have the treatment's method. One interval in twenty misses 0 by chance.",
    "[paper]: the paper's own figures, of a production system, not of this simulation.",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulates weeks of MetaHeac against control methods in three applications, and an A/A test.

    Prints the lifts of exposure, conversion and conversion rate with 95% intervals, and writes
    results.json to --out.
    """

    treatment: str = "metaheac"
    """Method of the treatment arm, and of both arms of the A/A test."""
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
    """Folder for the results."""
    resume: bool = False
    """Continue the test in --out: finished arms stay, so methods and weeks may be added. (Adding
    weeks until an interval excludes 0 proves nothing.)"""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds and prepared data, which later tests use again."""

    def week(self, application: str, number: int) -> Week:
        """One of an application's weeks, counted from 0."""
        same = ("users", "campaigns", "days", "audience", "general_every")
        numbers = {name: getattr(self, name) for name in same}
        return Week(application=application, seed=self.seed + number, **numbers)


def main(options: Options) -> None:
    """Runs the command."""
    if options.treatment in options.control:
        raise InputError(
            f"--control: {options.treatment} is the treatment, which the A/A test compares with "
            "itself anyway"
        )
    terminal.check_minimum("--weeks", options.weeks, 2)
    for name in ("days", "users", "campaigns", "general_every"):
        terminal.check_minimum(f"--{name.replace('_', '-')}", getattr(options, name), 1)
    if not 0 < options.audience * options.days <= 1:
        raise InputError(
            f"--audience: expected a share above 0 and at most 1 / days, got {options.audience}"
        )
    names = (options.treatment, *options.control)
    methods = {method.name: method for method in build_methods(names, world="tencent")}
    terminal.keep_compiled()
    screen = terminal.screen()
    with locked(options.out), terminal.progress_display(screen) as progress:
        found = run_weeks(options, methods, progress)
        kept = {name: value for name, value in asdict(options).items() if name not in PLACES}
        tests = [
            {"application": application, "test": title, "counts": counts.tolist()}
            | {"lifts": dict(zip(MEASURES, week_lifts(counts).tolist(), strict=True))}
            for application, experiments in found.items()
            for title, counts in experiments.items()
        ]
        about = {"commands": [command_of(options)], "provenance": provenance()}
        write_json(options.out / "results.json", {**about, "options": kept, "tests": tests})
    screen.print(Table("Lifts", *lift_table(found)).rich())
    terminal.print_lines(screen, *NOTES, f"the counts are in {options.out / 'results.json'}")


def run_weeks(
    options: Options, methods: dict[str, Method], progress: Progress
) -> dict[str, dict[str, np.ndarray]]:
    """(W, 2, 2) exposures and conversions of control and treatment, by application and test."""
    treatment = methods[options.treatment]
    found: dict[str, dict[str, np.ndarray]] = {}
    for application in APPLICATIONS:
        found[application] = {}
        weeks = [options.week(application, number) for number in range(options.weeks)]
        for name in (*options.control, options.treatment):
            arms = (methods[name], 0), (treatment, 1)
            counts = [[arm_counts(options, week, *arm, progress) for arm in arms] for week in weeks]
            title = f"{treatment.label} against {methods[name].label}"
            title = f"A/A: {treatment.label}" if name == options.treatment else title
            found[application][title] = np.array(counts)
    return found


def arm_counts(
    options: Options, week: Week, method: Method, bucket: int, progress: Progress
) -> list[int]:
    """Exposures and conversions of an arm, which is run unless --out has it with this week."""
    name = f"{week.name}-{method.name}-{'AB'[bucket]}"
    path = options.out / "arms" / f"{name}.json"
    same = json.loads(json.dumps({"week": asdict(week), "settings": method.config.plain()}))
    if options.resume and path.is_file():
        stored = json.loads(path.read_text())
        if {key: stored[key] for key in same} != same:
            raise InputError(f"{path}: began with other options; start afresh without --resume")
        return stored["counts"]
    counts = run_arm(
        week,
        method,
        bucket,
        folder=options.out / "checkpoints",
        cache_dir=options.cache_dir,
        progress=prefixed(progress, f"{week.name}, {method.label}, {'AB'[bucket]}: "),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**same, "counts": counts})
    return counts


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.live_week")
