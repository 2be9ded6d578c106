"""The command ``python -m experiments.many_campaigns``; see the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments import movielens, tencent
from experiments.comparison.provenance import command_of, describe_origin, provenance
from experiments.comparison.results import GROUPS
from experiments.comparison.run import Data
from experiments.comparison.tuning import describe, tuned_before, tuned_method
from experiments.many_campaigns.pool import PoolSpeed, time_expanding
from experiments.many_campaigns.quality import WayResult, customise_both_ways, loss_of_heads
from experiments.many_campaigns.speed import (
    CustomisingSpeed,
    ScoringSpeed,
    time_customising,
    time_scoring,
)
from metaheac_jax.cli import terminal
from metaheac_jax.environment import MayChange
from metaheac_jax.files import locked, write_json, write_text
from metaheac_jax.methods import Method, method_named
from metaheac_jax.progress import Progress
from metaheac_jax.settings import SETTINGS, Adapts

Part = Literal["auc", "score", "customise", "expand"]
#: The users and the campaigns per day of the extrapolation.
USERS, CAMPAIGNS_PER_DAY = 1_000_000_000, 500


@dataclass(frozen=True, kw_only=True)
class Options:
    """Measures what customising behind a shared first layer costs in AUC, and what time it saves.

    Trains a general model, customises the test campaigns in both ways, and prints their AUC with
    the paired difference. Times scoring for several numbers of campaigns, customising one campaign
    (with its size on disk), and expanding one over a large pool (with the memory that it takes).
    Writes results.json, report.md and checkpoints to --out.
    """

    parts: tuple[Part, ...] = ("auc", "score", "customise", "expand")
    """Parts to run."""
    method: str = "metaheac"
    """Method of the general model, with a network that splits after its first layer."""
    data_dir: Path | None = None
    """Folder of data, as for experiments.tencent or experiments.movielens. Default: a simulated
    world."""
    users: int = 400_000
    """Number of users of the simulated world."""
    examples: int | None = None
    """Approximate number of examples of the simulated world. Default: four per five users."""
    cardinality: float = 0.1
    """Size of the large vocabularies of the simulated world, as a fraction of the real ones."""
    seed: int = 0
    """Random seed of the world, the split and all stages."""
    campaigns: tuple[int, ...] = (1, 10, 100)
    """Numbers of campaigns to time scoring for."""
    widths: tuple[int, ...] = (64, 16)
    """Embedding widths to time scoring for; customising and expanding are timed with the first."""
    pool: int = 20_000_000
    """Number of users in the pool of a campaign; the default writes 6 GB to --out."""
    rounds: int = 5
    """Timed rounds of scoring, in which both ways take turns."""
    out: Path = Path("runs/many_campaigns")
    """Folder for the results and checkpoints. A training that was begun there is continued, or its
    model used again, so the data, the settings, the program and its libraries must be those of
    before."""
    allow_change: tuple[MayChange, ...] = ()
    """What may have changed since the training in --out began."""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds and prepared data, which later runs reuse."""


def main(options: Options) -> None:
    """Runs the command."""
    for name in ("users", "rounds", "pool"):
        terminal.check_minimum(f"--{name}", getattr(options, name), 1)
    for name in ("campaigns", "widths"):
        terminal.check_minimum(f"--{name}", min(getattr(options, name), default=0), 1)
    terminal.check_minimum("--seed", options.seed, 0)
    if options.data_dir is not None:
        tencent.refuse_world_options(options)
    if "auc" in options.parts:
        method_named(options.method).with_settings(online_adapts="heads")  # raises if it cannot
    screen = terminal.screen()
    terminal.keep_compiled()
    with locked(options.out):
        options.out.mkdir(parents=True, exist_ok=True)
        with terminal.progress_display(screen) as progress:
            results = run(options, progress)
        write_json(options.out / "results.json", {**asdict(results), "provenance": provenance()})
        text = "\n".join(report(options, results))
        write_text(options.out / "report.md", f"# Many campaigns\n\n{text}\n")
    print(text)


@dataclass(frozen=True)
class Results:
    """The results of a run; parts that were not requested are empty.

    Attributes:
      data: what the general model was trained on, and where its settings come from.
      ways: result of each way of customising.
      scoring: speed per width and number of campaigns.
      customising: speed for one campaign.
      expanding: speed for one campaign, over a small and a large pool.
    """

    data: Mapping[str, Any] = field(default_factory=dict)
    ways: Mapping[Adapts, WayResult] = field(default_factory=dict)
    scoring: Sequence[ScoringSpeed] = ()
    customising: CustomisingSpeed | None = None
    expanding: Sequence[PoolSpeed] = ()


def run(options: Options, progress: Progress) -> Results:
    """Runs all parts that the options select."""
    results = Results()
    if "auc" in options.parts:
        data, method, tuned = load(options, progress)
        data.check(method.settings)
        ways = customise_both_ways(
            data,
            method,
            seed=options.seed,
            directory=options.out,
            allow_changes=options.allow_change,
            progress=progress,
        )
        results = replace(results, data=data.describe() | {"tuned": tuned}, ways=ways)
    if "score" in options.parts:
        scoring = [
            speed
            for width in options.widths
            for speed in time_scoring(
                width, options.campaigns, num_rounds=options.rounds, progress=progress
            )
        ]
        results = replace(results, scoring=scoring)
    if "customise" in options.parts:
        speed = time_customising(width=options.widths[0], progress=progress)
        results = replace(results, customising=speed)
    if "expand" in options.parts:
        expanding = time_expanding(
            options.pool, width=options.widths[0], directory=options.out, progress=progress
        )
        results = replace(results, expanding=expanding)
    return results


def load(options: Options, progress: Progress) -> tuple[Data, Method, str]:
    """The data, the method as tuned on such data, and where its settings come from."""
    settings, source = SETTINGS["paper"], options.data_dir
    world = "tencent" if source is None else None
    if source is not None and any(source.glob("*.inter")):
        movies = movielens.Options(data_dir=source)
        data = movielens.load(movies, options.seed)
        settings = replace(settings, online_epochs=movielens.ONLINE_EPOCHS)
        world = movielens.world_of(movies)
    else:
        simulated = tencent.Options(
            data_dir=source,
            users=options.users,
            examples=options.examples,
            cardinality=options.cardinality,
            cache_dir=options.cache_dir,
        )
        data = Data(*tencent.load(simulated, options.seed, progress))
    tuning = tuned_before(world)
    method = tuned_method(options.method, settings, tuning)
    return data, method, describe([options.method], tuning)


def report(options: Options, results: Results) -> list[str]:
    """The lines of the report, in Markdown."""
    about = {"command": command_of(options), **results.data}
    lines = [describe_origin(about, [{"provenance": provenance()}])]
    if results.ways:
        counts = {group: len(results.ways["all"].aucs(group)) for group in GROUPS}
        groups = [group for group, count in counts.items() if count]
        heads = [f"AUC, {group} ({counts[group]} campaigns)" for group in groups]
        lines += ["", f"| adapted | online rate | customise s | {' | '.join(heads)} |"]
        lines += ["|---|" + "---:|" * (2 + len(groups))]
        for adapts, way in results.ways.items():
            means = [f"{np.mean([*way.aucs(group).values()]):.4f}" for group in groups]
            lines.append(f"| {adapts} | {way.rate:g} | {way.seconds:.1f} | {' | '.join(means)} |")
        lines.append("")
        for group in groups:
            loss = loss_of_heads(results.ways, group)
            error = "" if loss.error is None else f", standard error {loss.error:.4f}"
            lines.append(f"- {group}: heads - all {loss.mean:+.4f}{error}")
    if results.scoring:
        lines += ["", "| k | campaigns | scores/s, shared | scores/s, full | ratio | of FLOPs |"]
        lines += ["|---:|---:|---:|---:|---:|---:|"]
        for speed in results.scoring:
            rates = f"{speed.shared:,.0f} | {speed.full:,.0f} | {speed.ratio:.2f}"
            lines.append(f"| {speed.width} | {speed.campaigns} | {rates} | {speed.flops:.2f} |")
        lines += ["", *map(extrapolation, widest_of_each(results.scoring))]
    if results.customising:
        speed = results.customising
        lines += [
            "",
            f"Customising on {speed.examples:,} examples, {speed.minibatches} minibatches:",
        ]
        lines += ["", "| adapted | s | of the whole table | on disk, MiB |", "|---|---:|---:|---:|"]
        most = speed.seconds["whole table"]
        for way, seconds in speed.seconds.items():
            size = f"{speed.size[way] / 2**20:.2f}"
            lines.append(f"| {way} | {seconds:.1f} | {seconds / most:.3f} | {size} |")
    if results.expanding:
        lines += ["", "| k | users of the pool | users/s | of the formulas' rate | memory, MiB |"]
        lines += ["|---:|---:|---:|---:|---:|"]
        for speed in results.expanding:
            rates = f"{speed.users / speed.seconds:,.0f} | {speed.formulas / speed.seconds:.2f}"
            memory = f"{speed.memory / 2**20:,.0f}"
            lines.append(f"| {speed.width} | {speed.users:,} | {rates} | {memory} |")
        lines += [
            "",
            "The first row of each k includes compiling or reading the program.",
        ]
    return lines


def widest_of_each(scoring: Sequence[ScoringSpeed]) -> list[ScoringSpeed]:
    """For each width, the speed with the most campaigns."""
    most = max(speed.campaigns for speed in scoring)
    return [speed for speed in scoring if speed.campaigns == most]


def extrapolation(speed: ScoringSpeed) -> str:
    """How many machines like this score all users for a day's campaigns, with the arithmetic."""
    scores = USERS * CAMPAIGNS_PER_DAY
    shared, full = (scores / rate / 86_400 for rate in (speed.shared, speed.full))
    return (
        f"- k = {speed.width}: {USERS:,} users x {CAMPAIGNS_PER_DAY} campaigns a day = "
        f"{scores:.0e} scores; / {speed.shared:,.0f} a second / 86,400 seconds = {shared:.1f} of "
        f"these machines, and {full:.1f} with full passes"
    )


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.many_campaigns")
