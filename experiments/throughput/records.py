"""Records of benchmarks: tables, two figures, and a comparison with earlier records."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.comparison.pages import markdown_table, save_figure
from experiments.throughput.inputs import Size
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Record:
    """One timing. Unknown figures are None.

    Attributes:
      benchmark: what was timed, one of `benchmarks.BENCHMARKS`.
      path: how it was computed; for a meta-step one of `meta_steps.ways`.
      campaigns, batch_size, width, table_rows: the size; 0 where a number has no meaning.
      median_seconds: median time of a step, a batch, a minibatch, a pool or a preparation.
      low_seconds, high_seconds: quartiles of this time.
      mean_seconds: mean of this time. "end to end" is timed 8 steps at a time, so compare its mean,
        not its median, with the bare step.
      repeats: number of timed runs.
      compile_seconds: compilation alone; for customise and score, the extra time of the first run.
      examples: number of examples per step, batch or minibatch; users for score and prepare.
      steps_per_second, examples_per_second: rates at the median.
      precision: precision of the matrix products, a name in `machine_limits.PRECISIONS`.
      executed_flops: see `arithmetic.executed_flops`.
      theory_flops, theory_bytes: FLOPs of the formulas, least bytes to move; see `machine_limits`.
      counted_flops, counted_bytes: XLA's counts for the compiled program. Every read or write of a
        byte by an operation counts, even if it comes from a cache.
      executed_seconds: executed_flops at the measured rate of products of this precision.
      floor_seconds: theory_flops at that rate. A program that omits products can be faster.
      share_of_limit: floor_seconds / median_seconds.
      of_row_local: time over that of the row-local step in the same rounds; median over the rounds.
      loss: mean loss of the last 8 of `benchmarks.QUALITY_STEPS` steps from untrained weights.
      auc: AUC of the scores that the general weights then give to the examples of these steps.
      peak_memory_bytes: peak memory of ``memory_source``, which is the "compiled program"
        (arguments, results and temporaries) or the whole "process" (resident bytes).
      matmul_flops_per_second, copy_bytes_per_second, gather_bytes_per_second: measured limits of
        the machine.
      sheet_flops_per_second, sheet_bytes_per_second: peaks of its data sheet; see `data_sheets`.
      device, versions, environment: hardware and software of the run.
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
    precision: str
    executed_flops: int | None
    theory_flops: int | None
    theory_bytes: int | None
    counted_flops: float | None
    counted_bytes: float | None
    executed_seconds: float | None
    floor_seconds: float | None
    share_of_limit: float | None
    of_row_local: float | None
    loss: float | None
    auc: float | None
    peak_memory_bytes: int | None
    memory_source: str
    matmul_flops_per_second: float
    copy_bytes_per_second: float
    gather_bytes_per_second: float
    sheet_flops_per_second: float | None
    sheet_bytes_per_second: float | None
    device: str
    versions: dict[str, str]
    environment: dict[str, str]


#: The fields that identify a record; the others are measured.
KEY = ("benchmark", "path", "campaigns", "batch_size", "width", "table_rows")


def table(records: Sequence[Record]) -> str:
    """Markdown table of the times, next to those that the arithmetic alone would take."""
    header = ["benchmark: path", "campaigns x batch size", "k", "table rows"]
    header += ["ms", "quartiles", "mean", "executed ms", "ms / executed"]
    header += ["formulas' ms", "ms / formulas'", "of row-local", "examples/s"]
    header += ["GFLOP executed / counted / formulas'", "memory", "compile s"]
    lines = []
    for r in records:
        flops = (r.executed_flops, r.counted_flops, r.theory_flops)
        lines.append(
            [
                *_key(r),
                f"{1e3 * r.median_seconds:.4g}",
                f"{1e3 * r.low_seconds:.4g}-{1e3 * r.high_seconds:.4g}",
                f"{1e3 * r.mean_seconds:.4g}",
                _text(r.executed_seconds, "{:.4g}", 1e-3),
                _text(_ratio(r.median_seconds, r.executed_seconds), "{:.2f}"),
                _text(r.floor_seconds, "{:.4g}", 1e-3),
                _text(_ratio(r.median_seconds, r.floor_seconds), "{:.2f}"),
                _text(r.of_row_local, "{:.2f}"),
                f"{r.examples_per_second:,.0f}",
                " / ".join(_text(each, "{:.2f}", 1e9) for each in flops),
                _text(r.peak_memory_bytes, "{:.2f} GiB", 2**30)
                + ("" if r.memory_source == "compiled program" else " (process)"),
                _text(r.compile_seconds, "{:.1f}"),
            ]
        )
    return markdown_table(header, lines)


def roofline_table(records: Sequence[Record]) -> str:
    """Markdown table of what limits each benchmark whose arithmetic is known.

    The ridge is the machine's rate of products over that of copies, both measured: a program with
    more FLOP per byte is limited by its products. The first FLOP/byte uses the least bytes that
    must be moved, the second the bytes that XLA counts.
    """
    header = ["benchmark: path", "campaigns x batch size", "k", "table rows", "products"]
    header += ["FLOP/byte", "of XLA's bytes", "ridge", "limit"]
    header += ["of measured peak", "of data sheet", "GB/s", "of copy", "of gathers", "loss", "AUC"]
    lines = []
    for r in records:
        if r.executed_flops is None:
            continue
        intensity = _ratio(r.executed_flops, r.theory_bytes)
        ridge = r.matmul_flops_per_second / r.copy_bytes_per_second
        limit = None if intensity is None else ("products" if intensity > ridge else "memory")
        rate = _ratio(r.theory_bytes, r.median_seconds)
        achieved = r.executed_flops / r.median_seconds
        lines.append(
            [
                *_key(r),
                r.precision,
                _text(intensity, "{:.1f}"),
                _text(_ratio(r.executed_flops, r.counted_bytes), "{:.1f}"),
                f"{ridge:.1f}",
                limit or "-",
                f"{achieved / r.matmul_flops_per_second:.0%}",
                _text(_ratio(achieved, r.sheet_flops_per_second), "{:.1%}"),
                _text(rate, "{:.2f}", 1e9),
                _text(_ratio(rate, r.copy_bytes_per_second), "{:.1%}"),
                _text(_ratio(rate, r.gather_bytes_per_second), "{:.1%}"),
                _text(r.loss, "{:.6f}"),
                _text(r.auc, "{:.4f}"),
            ]
        )
    return markdown_table(header, lines)


def machine_lines(records: Sequence[Record]) -> list[str]:
    """Lines on the machine of the records, and the medians of the limits measured between them."""
    if not records:
        return []
    first = records[0]
    lines = [", ".join([first.device, *(f"{name} {v}" for name, v in first.versions.items())])]
    lines += [f"{name}: {value}" for name, value in first.environment.items()]
    for precision in dict.fromkeys(r.precision for r in records):
        some = [r for r in records if r.precision == precision]
        rate = _text(median(r.matmul_flops_per_second for r in some), "{:.4g} GFLOP/s", 1e9)
        sheet = _text(some[0].sheet_flops_per_second, "{:.4g} GFLOP/s, dense", 1e9)
        lines.append(f"products, precision {precision}: {rate} measured, data sheet {sheet}")
    copy = median(r.copy_bytes_per_second for r in records)
    gather = median(r.gather_bytes_per_second for r in records)
    sheet = _text(first.sheet_bytes_per_second, "{:.4g} GB/s", 1e9)
    lines.append(f"copy: {copy / 1e9:.4g} GB/s measured, data sheet {sheet}")
    lines.append(f"gathers of table rows: {gather / 1e9:.4g} GB/s, {gather / copy:.0%} of copy")
    return lines + [line for record in records for line in _shares(record, records)]


def _shares(whole: Record, records: Sequence[Record]) -> list[str]:
    """Fractions of a step that sampling and placing on the device would take if done in turn."""
    of_size = [r for r in records if _key(r)[1:] == _key(whole)[1:]]
    parts = [r for r in of_size if r.benchmark in ("sample", "to device")]
    if whole.benchmark != "end to end" or not parts:
        return []
    told = [f"{r.benchmark} {r.median_seconds / whole.median_seconds:.1%}" for r in parts]
    size = f"{whole.campaigns} x {whole.batch_size}, k {whole.width}, {whole.table_rows:,} rows"
    most = 1 / max(r.median_seconds for r in parts)
    return [f"of a step end to end, {size}: {', '.join(told)}; alone {most:,.0f} steps/s at most"]


def _key(r: Record) -> list[str]:
    """The first cells of a record's line."""
    size = f"{r.campaigns} x {r.batch_size or '-'}"
    return [f"{r.benchmark}: {r.path}", size, str(r.width or "-"), f"{r.table_rows:,}"]


def _ratio(value: float | None, unit: float | None) -> float | None:
    return None if value is None or not unit else value / unit


def _text(value: float | None, form: str, unit: float = 1.0) -> str:
    return "-" if value is None else form.format(value / unit)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Reads records that `--json` wrote.

    Raises:
      InputError: the file is missing or is not a list of records; the first faulty one is named.
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
    """New medians over old ones, one line per record in both, and whether there is a loss.

    Args:
      old, new: records as dictionaries.
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
      records: any records; those of other benchmarks are left out.
      base: the base size.
      directory: where the figures are written.
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
    """Draws one line per path."""
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
    save_figure(figure, path)
