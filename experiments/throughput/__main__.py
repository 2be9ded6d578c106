"""The command ``python -m experiments.throughput``; see the package."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np

from experiments.comparison.origin import provenance
from experiments.comparison.tables import Table
from experiments.throughput.compiled import PROGRAMS, Figures, compile_for, compile_options
from experiments.throughput.inputs import Size, check_option, synthetic
from experiments.throughput.stages import Record, measure
from experiments.throughput.steps import WAYS
from experiments.throughput.trace import Traced, trace
from metaheac_jax.cli import terminal
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.data.storage import open_dataset, write_columns
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import write_json
from metaheac_jax.methods import OFFICIAL
from metaheac_jax.progress import Progress
from metaheac_jax.training.sharding import parse_mesh


@dataclass(frozen=True)
class Options:
    """Times sampling, the meta-step, customising and scoring; prints a table."""

    campaigns: int = OFFICIAL.campaigns_per_step
    """Campaigns of a meta-step."""
    batch_size: int = OFFICIAL.batch_size
    """Examples of a support set, of a query set, and of an online minibatch."""
    width: int = OFFICIAL.width
    """Width of an embedding."""
    table_rows: tuple[int, ...] = (334_494,)
    """Rows of the table; several sizes are timed one after the other."""
    ways: tuple[str, ...] = WAYS
    """Ways of the meta-step: row-local, which methods use, and any of first-order, whole-table."""
    rounds: int = 5
    """Timed rounds; the ways of the meta-step take turns in each."""
    compile_for: tuple[str, ...] = ()
    """Devices that need not be there, as v5e:1x1 and h100: compile all programs for them instead,
    and show what their compilers say; nothing is timed."""
    mesh: str | None = None
    """With --compile-for, such as campaign=4,row=4: the meta-step alone, divided over devices."""
    each_option: bool = False
    """With --compile-for: the meta-step for any loss instead, with each of its options."""
    trace: Path | None = None
    """Folder for a trace of training, for XProf or Perfetto, instead; nothing else is timed."""
    json: Path | None = None
    """File for the records."""


def main(options: Options) -> None:
    """Runs the command."""
    for name in options.ways:
        if name not in WAYS or "row-local" not in options.ways:
            raise InputError(f"--ways: got {name!r}; give row-local, and any of {', '.join(WAYS)}")
    check_whole("--rounds", options.rounds, 1)
    if options.json is not None:
        terminal.check_output("--json", options.json)
    sizes = [
        Size(options.campaigns, options.batch_size, options.width, rows)
        for rows in options.table_rows
    ]
    for size in sizes:
        for name, value in size._asdict().items():
            check_option(name, value)
    if options.compile_for:
        found = compiled_figures(options, sizes)
        if options.json is not None:
            figures = [own._asdict() for own in found]
            write_json(options.json, {"provenance": provenance(), "compiled": figures})
        terminal.screen().print(compiled_table(found).rich())
        return
    if options.trace is not None:
        found = [traced(size, options.trace) for size in sizes]
        if options.json is not None:
            records = [own._asdict() for own in found]
            write_json(options.json, {"provenance": provenance(), "traces": records})
        return
    with terminal.progress_display() as progress:
        records = [record for size in sizes for record in at_size(size, options, progress)]
    if options.json is not None:
        found = [record._asdict() for record in records]
        write_json(options.json, {"provenance": provenance(), "stages": found})
    terminal.screen().print(stages_table(records).rich())


def compiled_figures(options: Options, sizes: Sequence[Size]) -> list[Figures]:
    """What the compilers of all devices say of the programs that the options choose."""
    if options.each_option:
        return [own for target in options.compile_for for own in compile_options(target)]
    mesh = {} if options.mesh is None else parse_mesh(options.mesh)
    return [
        compile_for(target, program, size, **mesh)
        for target in options.compile_for
        for size in sizes
        for program in (["meta-step"] if mesh else PROGRAMS)
    ]


@contextmanager
def synthetic_data(size: Size) -> Iterator[tuple[Dataset, CampaignSampler]]:
    """Synthetic data whose columns are memory-mapped, and a sampler of its campaigns."""
    with tempfile.TemporaryDirectory() as folder:
        write_columns(synthetic(size), Path(folder))
        dataset = open_dataset(folder)
        yield (
            dataset,
            CampaignSampler(
                dataset,
                np.arange(dataset.num_campaigns),
                seed=0,
                campaigns_per_step=size.campaigns,
                batch_size=size.batch_size,
                disjoint=OFFICIAL.disjoint,
            ),
        )


def traced(size: Size, folder: Path) -> Traced:
    """Writes a trace of training to a folder, and prints what it shows."""
    with synthetic_data(size) as data:
        found = trace(size, *data, folder)
    terminal.print_lines(
        f"{size.table_rows:,} table rows: {1e3 * found.seconds / found.steps:.1f} ms a step, "
        f"{found.busy:.1%} of it on the device; {found.steps} steps in {folder}"
    )
    return found


def at_size(size: Size, options: Options, progress: Progress) -> list[Record]:
    """The records of one size."""
    with synthetic_data(size) as data:
        given = {"num_rounds": options.rounds, "ways": options.ways, "progress": progress}
        return measure(size, *data, **given)


def stages_table(records: Sequence[Record]) -> Table:
    """A table of the times, beside those that the arithmetic alone would take."""
    header = ["stage", "table rows", "ms", "of row-local", "GFLOP", "ms / arithmetic", "memory"]
    rows = []
    for r in records:
        least = None
        if r.gigaflop is not None and r.matmul_gigaflops is not None:
            least = r.gigaflop / r.matmul_gigaflops
        rows.append(
            [
                f"{r.stage}, {r.way}" if r.way else r.stage,
                f"{r.table_rows:,}",
                f"{1e3 * r.median_seconds:.4g}",
                "-" if r.of_row_local is None else f"{r.of_row_local:.2f}",
                "-" if r.gigaflop is None else f"{r.gigaflop:.2f}",
                "-" if least is None else f"{r.median_seconds / least:.2f}",
                "-" if r.memory_bytes is None else f"{r.memory_bytes / 2**30:.2f} GiB",
            ]
        )
    return Table("Stages", header, rows)


def compiled_table(figures: Sequence[Figures]) -> Table:
    """A table of what compilers say."""
    header = ["program", "device", "table rows", "Mcycles", "a user", "GFLOP"]
    header += ["gathers, scatters", "temporaries", "arguments", "on the table"]
    rows = []
    for own in figures:
        cycles = own.megacycles
        counts = [own.unestimated.get(kind, 0) for kind in ("gather", "scatter")]
        rows.append(
            [
                own.program,
                own.target if own.mesh == "1x1" else f"{own.target}, {own.mesh}",
                f"{own.table_rows:,}",
                "-" if cycles is None else f"{cycles:.2f}",
                "-" if cycles is None or own.items == 1 else f"{1e6 * cycles / own.items:.1f}",
                f"{own.gigaflop:.2f}" if own.gigaflop else "-",
                ", ".join(map(str, counts)),
                f"{own.temporary_mb:,.0f} MB",
                f"{own.arguments_mb:,.0f} MB",
                str(len(own.on_table)),
            ]
        )
    return Table("Compiled", header, rows)


def compile_anew(options: Options) -> None:
    """Takes no compiled programs from jax's cache, so that all are compiled alike."""
    jax.config.update("jax_enable_compilation_cache", False)
    if options.compile_for:
        jax.config.update("jax_platforms", "cpu")


if __name__ == "__main__":
    terminal.command(Options, main, start=compile_anew, prog="python -m experiments.throughput")
