"""Records of benchmarks: as a table, as two figures, and compared with earlier records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.comparison.pages import markdown_table
from experiments.throughput.inputs import Size
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Record:
    """One timing. A figure that is unknown is None.

    Attributes:
      benchmark: what was timed, one of `benchmarks.BENCHMARKS`.
      path: how it was computed; for a meta-step one of `meta_steps.ways`.
      campaigns, batch_size, width, table_rows: the size; 0 where a number has no meaning.
      median_seconds: of a step, a batch, a minibatch, a pool or a preparation.
      low_seconds, high_seconds: quartiles.
      mean_seconds: of the same. "end to end" is timed 8 steps at a time, so its mean is the figure
        to compare with the mean of the bare step.
      repeats: number of timed runs.
      compile_seconds: of compilation alone; for customise and score, what the first run took more.
      examples: number of examples per step, batch or minibatch; of users for score and prepare.
      steps_per_second, examples_per_second: at the median.
      theory_flops, theory_bytes: see `machine_limits`.
      counted_flops, counted_bytes: of the compiled program, counted by XLA.
      floor_seconds: theory_flops at the rate of the machine's matrix product. A program that omits
        products (see `machine_limits.theory_flops`) can be faster.
      share_of_limit: floor_seconds / median_seconds.
      peak_memory_bytes: of ``memory_source``, which is the "compiled program" (arguments, results
        and temporaries), or the whole "process" (the most resident bytes).
      matmul_flops_per_second, copy_bytes_per_second: the machine's limits.
      device, versions: what it ran on.
    """

    benchmark: str
    path: str
    campaigns: int
    batch_size: int
    width: int
    table_rows: int
    median_seconds: float
    low_seconds: float
    high_seconds: float
    mean_seconds: float
    repeats: int
    compile_seconds: float | None
    examples: int
    steps_per_second: float
    examples_per_second: float
    theory_flops: int | None
    theory_bytes: int | None
    counted_flops: float | None
    counted_bytes: float | None
    floor_seconds: float | None
    share_of_limit: float | None
    peak_memory_bytes: int | None
    memory_source: str
    matmul_flops_per_second: float
    copy_bytes_per_second: float
    device: str
    versions: dict[str, str]


#: The fields that identify a record; the others are measured.
KEY = ("benchmark", "path", "campaigns", "batch_size", "width", "table_rows")


def table(records: Sequence[Record]) -> str:
    """The records in Markdown. "formulas' ms" is `Record.floor_seconds`."""
    header = ["benchmark: path", "campaigns x batch size", "k", "table rows"]
    header += ["ms", "quartiles", "mean", "formulas' ms", "ms / formulas'", "examples/s"]
    header += ["GFLOP counted / theory", "GB counted / theory", "memory", "compile s"]
    lines = []
    for r in records:
        formulas = None if r.floor_seconds is None else 1e3 * r.floor_seconds
        ratio = None if r.share_of_limit is None else 1 / r.share_of_limit
        lines.append(
            [
                f"{r.benchmark}: {r.path}",
                f"{r.campaigns} x {r.batch_size or '-'}",
                str(r.width or "-"),
                f"{r.table_rows:,}",
                f"{1e3 * r.median_seconds:.4g}",
                f"{1e3 * r.low_seconds:.4g}-{1e3 * r.high_seconds:.4g}",
                f"{1e3 * r.mean_seconds:.4g}",
                _text(formulas, "{:.4g}"),
                _text(ratio, "{:.2f}"),
                f"{r.examples_per_second:,.0f}",
                f"{_text(r.counted_flops, '{:.2f}', 1e9)} / {_text(r.theory_flops, '{:.2f}', 1e9)}",
                f"{_text(r.counted_bytes, '{:.2f}', 1e9)} / {_text(r.theory_bytes, '{:.3f}', 1e9)}",
                _text(r.peak_memory_bytes, "{:.2f} GiB", 2**30)
                + ("" if r.memory_source == "compiled program" else " (process)"),
                _text(r.compile_seconds, "{:.1f}"),
            ]
        )
    return markdown_table(header, lines)


def _text(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Records as `--json` wrote them.

    Raises:
      InputError: the file is missing or no list of records; the first faulty one is named.
    """
    remedy = "give a file that --json wrote"
    try:
        data = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; {remedy}") from None
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); {remedy}") from error
    if not isinstance(data, list) or not data:
        raise InputError(f"{path}: expected a list of records; {remedy}")
    for number, record in enumerate(data, start=1):
        fields = record if isinstance(record, dict) else {}
        missing = [name for name in (*KEY, "device") if not isinstance(fields.get(name), str | int)]
        if missing:
            raise InputError(f"{path}: record {number} lacks {missing[0]!r}; {remedy}")
        seconds = fields.get("median_seconds")
        if not isinstance(seconds, int | float) or not 0 < seconds < math.inf:
            raise InputError(
                f"{path}: record {number} has {seconds!r} as 'median_seconds', expected a positive "
                f"number; {remedy}"
            )
    return data


def compare(
    old: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]], margin: float
) -> tuple[list[str], bool]:
    """New medians over old ones, one line for each record in both; and whether there is a loss.

    Args:
      old, new: records as plain data.
      margin: a ratio above 1 + margin is a loss.

    Raises:
      InputError: no record is in both.
    """
    before = {tuple(record[name] for name in KEY): record for record in old}
    lines, lost = [], False
    for record in new:
        key = tuple(record[name] for name in KEY)
        if key not in before:
            continue
        ratio = record["median_seconds"] / before[key]["median_seconds"]
        loss = ratio > 1 + margin
        lost |= loss
        benchmark, path, campaigns, batch_size, width, table_rows = key
        lines.append(
            f"{ratio:6.3f} of the old time  {benchmark}: {path}, {campaigns} x {batch_size}, "
            f"k {width}, {table_rows:,} table rows" + ("  LOSS" if loss else "")
        )
        if before[key]["device"] != record["device"]:
            lines[-1] += f"  (old: another device, {before[key]['device']})"
    if not lines:
        raise InputError("--compare: the old file has none of this run's records; use its options")
    return lines, lost


def figures(records: Sequence[Record], base: Size, directory: Path) -> None:
    """Draws the meta-steps around the base size: step_time.png and throughput.png.

    Args:
      records: those of other benchmarks are left out.
      base: the base size.
      directory: gets the figures.
    """
    steps = [r for r in records if r.benchmark == "meta-step" and r.width == base.width]
    colors = {name: f"C{i}" for i, name in enumerate(dict.fromkeys(r.path for r in steps))}
    lines = partial(_lines, colors)
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    lines(
        figure.subplots(),
        [r for r in steps if (r.campaigns, r.batch_size) == (base.campaigns, base.batch_size)],
        lambda r: (r.table_rows, r.median_seconds),
        yscale="log",
        xlabel="rows of the table",
        ylabel="seconds per meta-step",
        title=f"{base.campaigns} campaigns x {base.batch_size} + {base.batch_size} examples, "
        f"k = {base.width}",
    )
    _save(figure, records, directory / "step_time.png")

    steps = [r for r in steps if r.table_rows == base.table_rows]
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    lines(
        left,
        [r for r in steps if r.batch_size == base.batch_size],
        lambda r: (r.campaigns, r.examples_per_second),
        xlabel="campaigns per step",
        ylabel="examples per second",
        title=f"{base.batch_size} + {base.batch_size} examples of each",
    )
    lines(
        right,
        [r for r in steps if r.campaigns == base.campaigns],
        lambda r: (r.batch_size, r.examples_per_second),
        xlabel="examples of a support set, and of a query set",
        title=f"{base.campaigns} campaigns",
    )
    left.set_ylim(bottom=0)
    figure.supxlabel(f"k = {base.width}, {base.table_rows:,} table rows", fontsize=9)
    _save(figure, records, directory / "throughput.png")


def _lines(
    colors: Mapping[str, str],
    axes: Axes,
    records: Sequence[Record],
    point: Callable[[Record], tuple[float, float]],
    **labels: str,
) -> None:
    """Draws a line for each path."""
    for name in dict.fromkeys(r.path for r in records):
        line = sorted(point(r) for r in records if r.path == name)
        axes.plot(*zip(*line, strict=True), marker="o", color=colors[name], label=name)
    axes.set(xscale="log", **labels)
    ticks = sorted({point(r)[0] for r in records})
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xticks([], minor=True)


def _save(figure: Figure, records: Sequence[Record], path: Path) -> None:
    if records:
        lines = {line.get_label(): line for axes in figure.axes for line in axes.lines}
        figure.legend(handles=list(lines.values()), loc="outside right upper", fontsize=8)
        figure.suptitle(records[0].device, fontsize=9)
    figure.savefig(path, dpi=130)
