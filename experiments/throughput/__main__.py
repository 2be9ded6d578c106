"""The command ``python -m experiments.throughput``; see the package."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import jax
import numpy as np

from experiments.throughput.benchmarks import BENCHMARKS, NUM_INPUTS, Bench, Input
from experiments.throughput.breakdown import breakdown_table
from experiments.throughput.inputs import Size, check_option, synthetic
from experiments.throughput.machine_limits import measure_limits
from experiments.throughput.meta_steps import ways
from experiments.throughput.records import (
    compare,
    figures,
    machine_lines,
    read_records,
    roofline_table,
    table,
)
from metaheac_jax.cli import terminal
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.data.storage import open_dataset, write_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, write_json, write_text
from metaheac_jax.progress import Progress
from metaheac_jax.settings import OFFICIAL


@dataclass(frozen=True)
class Options:
    """Times each stage of the pipeline at several sizes; writes a report and two figures to --out.

    The first values of --campaigns, --batch-size, --width and --table-rows form the base size. Each
    of their other values is tried with the rest at the base.
    """

    campaigns: tuple[int, ...] = (5, 1, 20)
    """Campaigns of a meta-step."""
    batch_size: tuple[int, ...] = (512, 128, 2048)
    """Examples of a support set, of a query set, and of an online minibatch."""
    width: tuple[int, ...] = (64, 16)
    """Widths of an embedding."""
    table_rows: tuple[int, ...] = (334_494, 33_449, 3_344_940)
    """Rows of the table."""
    benchmarks: tuple[str, ...] = BENCHMARKS
    """What to time: any of meta-step, "end to end", sample, "to device", customise, score,
    prepare."""
    paths: tuple[str, ...] = ()
    """Ways of the meta-step: row-local (used by the methods), first-order, at-once or in-turn
    (campaigns grouped the other way), whole-table, "whole-table at-once" (all campaigns vmapped);
    with several devices also "row-local sharded", on an accelerator also row-local in other
    precisions. Default: all."""
    quick: bool = False
    """Only the meta-step at the official size, row-local and whole-table, with 334,494 and
    3,344,940 rows; the size flags are ignored."""
    steps: int = 20
    """Timed runs per benchmark; fewer, but at least 3, if they take more than 10 seconds. The
    meta-step has at least 24: 8 per turn, or as many as fit into 2 seconds."""
    json: Path | None = None
    """File for the records."""
    profile: Path | None = None
    """Folder that keeps the profiler's traces of the row-local meta-steps at the base size."""
    compare: Path | None = None
    """Records of an earlier --json to compare with; a loss beyond --margin exits with code 1."""
    margin: float = 0.1
    """How much longer than in --compare a median may be: 0.1 is 10 percent."""
    out: Path = Path("runs/throughput")
    """Folder for report.md and the figures."""


def main(options: Options) -> int:
    """Runs the command; returns its exit code, 1 if --compare found a loss."""
    if options.quick:
        options = quick(options)
    check(options)
    old = None if options.compare is None else read_records(options.compare)
    with locked(options.out):
        return measure(options, old)


def measure(options: Options, old: list[dict[str, Any]] | None) -> int:
    """Measures, writes the report and compares; returns the exit code."""
    options.out.mkdir(parents=True, exist_ok=True)
    with terminal.progress_display(terminal.screen()) as progress:
        bench = run(options, progress)
    records = bench.records
    if options.json is not None:
        write_json(options.json, [asdict(record) for record in records])
    figures(records, base_size(options), options.out)
    facts = [*machine_lines(records), *(f"left out: {line}" for line in bench.left_out)]
    report = "\n".join(
        [*(f"- {line}" for line in facts), "", table(records), roofline_table(records)]
    )
    if bench.breakdowns:
        report += "\n" + breakdown_table(bench.breakdowns)
    drawn = "![Seconds per meta-step](step_time.png)\n![Examples per second](throughput.png)\n"
    write_text(options.out / "report.md", f"# Throughput\n\n{report}\n\n{drawn}")
    print(report)
    if old is None:
        return 0
    lines, lost = compare(old, [asdict(record) for record in records], options.margin)
    print("\n".join(lines))
    return int(lost)


def quick(options: Options) -> Options:
    """The options with the sizes and benchmarks of --quick."""
    return replace(
        options,
        campaigns=(OFFICIAL.campaigns_per_step,),
        batch_size=(OFFICIAL.batch_size,),
        width=(OFFICIAL.width,),
        table_rows=(334_494, 3_344_940),
        benchmarks=("meta-step",),
        paths=("row-local", "whole-table"),
    )


def check(options: Options) -> None:
    """Refuses options that cannot be run.

    Raises:
      InputError: an option is out of range, or --json cannot be written; the message names it.
    """
    for name in Size._fields:
        for value in getattr(options, name) or (0,):
            check_option(name, value)
    terminal.check_minimum("--steps", options.steps, 1)
    if options.json is not None:
        terminal.check_output("--json", options.json)
    if not options.margin >= 0:
        raise InputError(f"--margin: expected 0 or more, got {options.margin}")
    known = {"--benchmarks": BENCHMARKS, "--paths": tuple(ways(base_size(options)))}
    for flag, names in (("--benchmarks", options.benchmarks), ("--paths", options.paths)):
        for name in names:
            if name not in known[flag]:
                raise InputError(f"{flag}: unknown {name!r}; choose from {', '.join(known[flag])}")


def base_size(options: Options) -> Size:
    """The first value of each size flag."""
    return Size(*(getattr(options, name)[0] for name in Size._fields))


def sizes(options: Options) -> list[Size]:
    """The base size and the sizes that differ from it in one value, smallest steps first.

    Sizes that differ only in the table's rows are adjacent.
    """
    base = base_size(options)
    found = {
        base._replace(**{name: value}) for name in Size._fields for value in getattr(options, name)
    }
    return sorted(found, key=lambda size: (size.width * size.campaigns * size.batch_size, size))


def run(options: Options, progress: Progress) -> Bench:
    """Runs all benchmarks that the options select."""
    progress("measure the machine's limits", 0, 1)
    every = sizes(options)
    bench = Bench(
        measure_limits,
        progress,
        benchmarks=options.benchmarks,
        paths=options.paths,
        num_runs=options.steps,
        num_sizes=len(every),
        traced=base_size(options),
        profile=options.profile,
    )
    bench.prepare()
    for _, group in groupby(every, key=lambda size: size[:3]):
        with tempfile.TemporaryDirectory() as folder:
            bench.run([make_input(size, Path(folder)) for size in group])
    return bench


def make_input(size: Size, folder: Path) -> Input:
    """Synthetic inputs of a size; their columns are written to the folder and memory-mapped."""
    directory = folder / str(size.table_rows)
    write_dataset(synthetic(size), directory)
    dataset = open_dataset(directory)
    sampler = CampaignSampler(
        dataset,
        np.arange(dataset.num_campaigns),
        seed=0,
        campaigns_per_step=size.campaigns,
        batch_size=size.batch_size,
        disjoint=OFFICIAL.disjoint,
    )
    return Input(size, dataset, sampler, [sampler(number) for number in range(NUM_INPUTS)])


def compile_anew(options: Options) -> None:
    """Takes no compiled programs from jax's cache, since the time to compile is measured."""
    del options
    jax.config.update("jax_enable_compilation_cache", False)


if __name__ == "__main__":
    terminal.command(Options, main, start=compile_anew, prog="python -m experiments.throughput")
