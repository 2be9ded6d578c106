"""Benchmarks on whatever device jax finds: meta-step, end to end, sampling, customising, scoring,
preparing; each against the machine's own limits, and the meta-step against its rivals in the tree.

Times are medians of synchronised runs after a warm-up, compilation apart. A way of the meta-step on
tables of different lengths, bare and end to end, is timed in turns, since a shared machine's pace
changes. Inputs are synthetic, of the Tencent data's vocabularies, list lengths and popularity;
their values do not matter here.
"""

from __future__ import annotations

import math
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import tyro

from experiments import console as ui
from experiments.contenders import (
    NETWORK,
    SMALL_FIELDS,
    Program,
    Size,
    Way,
    compile_step,
    global_ids,
    new_general,
    synthetic,
    ways,
)
from experiments.job import write_json
from experiments.limits import (
    Limits,
    device_name,
    forget_high_water,
    free_memory,
    high_water,
    measure_limits,
    theory_flops,
    versions,
)
from experiments.methods.method import campaigns_at_once
from experiments.records import Record, compare, figures, read_records, table
from metaheac_jax.data import tencent
from metaheac_jax.data.dataset import Dataset, open_dataset, write_dataset
from metaheac_jax.data.sampling import CampaignBatch, CampaignSampler, campaign_examples
from metaheac_jax.data.simulation import write_world
from metaheac_jax.errors import InputError
from metaheac_jax.offline import train
from metaheac_jax.online import Customised, build_customise, build_score
from metaheac_jax.presets import OFFICIAL
from metaheac_jax.progress import Progress
from metaheac_jax.rows import RowStep
from metaheac_jax.schema import TENCENT
from metaheac_jax.sharding import campaign_mesh, split_campaigns

BENCHMARKS = ("meta-step", "end to end", "sample", "customise", "score", "prepare")
INPUTS = 8  # input sets that take turns; the sampler gives its first 8 batches one shape
POOL = 32_768  # users scored
WORLD_USERS = 50_000  # of the world that is prepared


@dataclass(frozen=True)
class Options:
    """Times each part of the work at several sizes: a table and two figures, in --out.

    The first value of --campaigns, --rows, --width and --table-rows together is the base size; the
    other values of each are tried with the rest at the base.
    """

    campaigns: tuple[int, ...] = (5, 1, 20)
    """Campaigns of a meta-step."""
    rows: tuple[int, ...] = (512, 128, 2048)
    """Examples of a support set, of a query set, and of an online minibatch."""
    width: tuple[int, ...] = (64, 16)
    """Widths of an embedding."""
    table_rows: tuple[int, ...] = (334_494, 33_449, 3_344_940)
    """Rows of the table."""
    benchmarks: tuple[str, ...] = BENCHMARKS
    """What to time: any of meta-step, "end to end", sample, customise, score, prepare."""
    paths: tuple[str, ...] = ()
    """Ways of the meta-step: row-local (what the jobs run), first-order, at-once or in-turn
    (campaigns grouped the other way), whole-table, "whole-table at-once" (all campaigns vmapped);
    with several devices also "row-local sharded", on an accelerator row-local with another
    precision. Default: all."""
    quick: bool = False
    """Only the meta-step at the official size, row-local and whole-table, with 334,494 and
    3,344,940 rows; the size flags are ignored."""
    steps: int = 20
    """Timed runs of each; fewer, but at least 3, where they take more than 10 seconds. Of the
    meta-step at least 24: 8 a turn, or as many as take 2 seconds."""
    json: Path | None = None
    """File for the records."""
    compare: Path | None = None
    """Records of an earlier --json to compare with; a loss beyond --margin exits with code 1."""
    margin: float = 0.1
    """How much longer than in --compare a median may be: 0.1 is 10 percent."""
    out: Path = Path("runs/throughput")
    """Folder for report.md and the figures."""


def sizes(options: Options) -> list[Size]:
    """The base size and those that differ from it in one value, small steps first.

    Those that differ in the table's rows alone are neighbours.
    """
    axes = (options.campaigns, options.rows, options.width, options.table_rows)
    base = Size(*(axis[0] for axis in axes))
    found = {
        base._replace(**{name: value})
        for name, axis in zip(Size._fields, axes, strict=True)
        for value in axis
    }
    return sorted(found, key=lambda size: (size.width * size.campaigns * size.rows, size))


def timed(run: Callable[[int], Any], repeats: int) -> tuple[float, list[float]]:
    """Seconds of the first run, and of the next; these stop after 10 seconds, but not before 3.

    Args:
      run: ``run(number)``; what it returns is waited for.
      repeats: how many, the first left out.
    """
    seconds: list[float] = []
    while len(seconds) <= repeats and (len(seconds) < 4 or sum(seconds[1:]) < 10):
        began = time.perf_counter()
        jax.block_until_ready(run(len(seconds)))
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1:]


def in_turns(runs: Sequence[Callable[[], list[float]]], rounds: int) -> list[list[float]]:
    """What each run returns, joined over the rounds; a first round is left out.

    A shared machine's pace changes; what slows one turn slows the others' beside it.
    """
    results = [[run() for run in runs] for _ in range(rounds + 1)][1:]
    return [[value for turn in turns for value in turn] for turns in zip(*results, strict=True)]


class Input(NamedTuple):
    """A size, a data set of it, its sampler, and the batches of the first steps."""

    size: Size
    dataset: Dataset
    sampler: CampaignSampler
    batches: list[CampaignBatch]


class Trial:
    """A compiled meta-step and its state; a turn of it gives seconds of a step."""

    def __init__(
        self, program: Program, size: Size, batches: Sequence[Any], sampler: CampaignSampler
    ) -> None:
        self.program, self.sampler, self.first = program, sampler, True
        self.state = program.init(new_general(size))
        # What is placed on several devices stays where it is.
        self.batches = [jax.tree.map(jnp.asarray, batch) for batch in batches]

    def bare(self) -> list[float]:
        """A step on each batch at hand; on those alone that the first turn does in 2 seconds."""
        seconds: list[float] = []
        for batch in self.batches:
            began = time.perf_counter()
            self.state, info = self.program.step(self.state, *batch)
            jax.block_until_ready((self.state, info))
            seconds.append(time.perf_counter() - began)
            if self.first and sum(seconds) > 2:
                break
        # As many in every turn, or slow ones would count for less.
        self.batches, self.first = self.batches[: len(seconds)], False
        return seconds

    def end_to_end(self) -> list[float]:
        """As the jobs do it: `offline.train`, which samples ahead and logs; the mean of 8 steps."""
        step = RowStep(self.program.init, self.program.step)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.jsonl"
            self.state = train(step, self.state, self.sampler, steps=INPUTS, log=log)
        jax.block_until_ready(self.state)
        return [(time.perf_counter() - began) / INPUTS]


class Bench:
    """Runs benchmarks and keeps their records.

    The machine's limits are measured anew after each, and after each way of the meta-step: a shared
    machine does not keep its pace.
    """

    def __init__(self, options: Options, measure: Callable[[], Limits], progress: Progress) -> None:
        self.options, self.measure, self.progress = options, measure, progress
        self.sizes, self.done = sizes(options), 0
        self.records: list[Record] = []
        self.left_out: list[str] = []

    def add(
        self,
        benchmark: str,
        path: str,
        size: Size,
        seconds: Sequence[float],
        examples: int,
        *,
        precision: str = "default",
        limits: Limits | None = None,
        **known: Any,
    ) -> None:
        """Adds a record.

        Args:
          benchmark, path, size, examples: as the record has them.
          seconds: of each run.
          precision: of the products, whose limit counts.
          limits: the machine's; None measures them.
          **known: further figures of the record.
        """
        low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
        limits = limits or self.measure()
        peak, flops = limits.matmul[precision], known.get("theory_flops")
        in_program = "peak_memory_bytes" in known
        figures: dict[str, Any] = {
            "compile_seconds": None,
            "theory_flops": None,
            "theory_bytes": None,
            "counted_flops": None,
            "counted_bytes": None,
            "peak_memory_bytes": None if in_program else high_water(),
        }
        record = Record(
            benchmark=benchmark,
            path=path,
            **size._asdict(),
            median_seconds=median,
            low_seconds=low,
            high_seconds=high,
            mean_seconds=float(np.mean(seconds)),
            repeats=len(seconds),
            examples=examples,
            steps_per_second=1 / median,
            examples_per_second=examples / median,
            floor_seconds=flops / peak if flops else None,
            share_of_limit=flops / peak / median if flops else None,
            memory_source="compiled program" if in_program else "process",
            matmul_flops_per_second=peak,
            copy_bytes_per_second=limits.copy,
            device=device_name(),
            versions=versions(),
            **(figures | known),
        )
        self.records.append(record)

    def steps(self, inputs: Sequence[Input]) -> None:
        """The meta-step on every path, batches at hand; end to end on the row-local one.

        The inputs, which differ in the table's rows alone, take turns on each path.
        """
        for name, way in ways(inputs[0].size).items():
            kinds = ("meta-step", "end to end") if name == "row-local" else ("meta-step",)
            wanted = [kind for kind in kinds if kind in self.options.benchmarks]
            if wanted and name in (self.options.paths or (name,)):
                timings = self._meta_step(name, way, wanted, inputs)
                limits = self.measure()  # with the trials' states gone
                for add, seconds in timings:
                    add(seconds=seconds, limits=limits)

    def _meta_step(
        self, name: str, way: Way, wanted: Sequence[str], inputs: Sequence[Input]
    ) -> list[tuple[Callable[..., None], list[float]]]:
        """For every record what adds it, but for seconds and limits, and the seconds."""
        turns: list[Callable[[], list[float]]] = []
        adds: list[Callable[..., None]] = []
        for size, dataset, sampler, shared in inputs:
            self._tell(f"meta-step, {name}", size)
            batches: Sequence[Any] = shared
            if way.whole_table:
                batches = [global_ids(batch, size.table_rows) for batch in shared]
            elif way.sharded:
                batches = [split_campaigns(batch, campaign_mesh()) for batch in shared]
            program = compile_step(way, size, batches[0], dataset.small_fields)
            need, free = program.figures["peak_memory_bytes"], free_memory()
            if free is not None and need > free:
                gib = f"{need / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
                self.left_out.append(f"{name}, {_text(size)}: needs {gib}")
                continue
            trial = Trial(program, size, batches, sampler)
            known = {"precision": way.precision, **program.figures}
            for benchmark in wanted:
                turns.append(trial.bare if benchmark == "meta-step" else trial.end_to_end)
                examples = 2 * size.campaigns * size.rows
                adds.append(partial(self.add, benchmark, name, size, examples=examples, **known))
        rounds = max(3, math.ceil(self.options.steps / INPUTS))
        return list(zip(adds, in_turns(turns, rounds), strict=True))

    def sample(self, size: Size, sampler: CampaignSampler) -> None:
        """The sampler alone, from memory-mapped columns."""
        self._tell("sample", size)
        _, seconds = timed(sampler, self.options.steps)
        self.add("sample", "memory-mapped", size, seconds, 2 * size.campaigns * size.rows)

    def customise(self, size: Size, dataset: Dataset) -> None:
        """Every campaign with the authors' two epochs, a minibatch's share of it."""
        self._tell("customise", size)
        general = new_general(size)
        members = [campaign_examples(dataset, c) for c in range(size.campaigns)]
        customise = build_customise(
            NETWORK,
            TENCENT.user_slots,
            small_fields=dataset.small_fields,
            rows=size.rows,
            campaigns_at_once=campaigns_at_once(size.campaigns),
        )
        epochs = OFFICIAL.online_epochs
        run = lambda _: customise(general, members, epochs=epochs)  # noqa: E731
        first, seconds = timed(run, self.options.steps)
        minibatches = epochs * sum(math.ceil(len(member.label) / size.rows) for member in members)
        flops = theory_flops(
            NETWORK, examples=size.rows, campaigns=1, width=size.width, derivative="gradient"
        )
        self.add(
            "customise",
            "row-local",
            size,
            [s / minibatches for s in seconds],
            size.rows,
            theory_flops=flops,
            compile_seconds=first - float(np.median(seconds)),
        )

    def score(self, size: Size, dataset: Dataset) -> None:
        """A pool of `POOL` users, with a customised model."""
        self._tell("score", size)
        general = new_general(size)
        users = np.resize(dataset.user_rows, (POOL, dataset.user_rows.shape[1]))
        rows = np.arange(min(8192, size.table_rows), dtype=np.int32)
        model = Customised(general.network, rows, general.table[rows])
        score = build_score(NETWORK, TENCENT.user_slots, small_fields=dataset.small_fields)
        first, seconds = timed(
            lambda _: score(general, model, dataset.campaign_rows[0], users), self.options.steps
        )
        flops = theory_flops(
            NETWORK, examples=POOL, campaigns=1, width=size.width, derivative="forward"
        )
        self.add(
            "score",
            "customised",
            size,
            seconds,
            POOL,
            theory_flops=flops,
            compile_seconds=first - float(np.median(seconds)),
        )

    def prepare(self) -> None:
        """The competition's files to a data set on disk, from a small simulated world."""
        with tempfile.TemporaryDirectory() as folder:
            world, target = Path(folder) / "world", Path(folder) / "prepared"
            write_world(world, users=WORLD_USERS, pool_rows=20, progress=self.progress)
            self.progress("benchmarks: prepare", 0, len(self.sizes))
            forget_high_water()
            _, seconds = timed(lambda _: tencent.prepare(world, target).users, 5)
            dataset = open_dataset(target)
            size = Size(dataset.campaigns, 0, 0, dataset.rows)
            self.add("prepare", "tencent", size, seconds, dataset.users)

    def _tell(self, what: str, size: Size) -> None:
        self.progress(f"benchmarks: {what}, {_text(size)}", self.done, len(self.sizes))
        forget_high_water()


def _text(size: Size) -> str:
    c, b, k, r = size
    return f"{c} campaigns x {b} rows, width {k}, {r:,} table rows"


def check(options: Options) -> None:
    """Refuses options that nothing can be run with.

    Raises:
      InputError: an option is out of range; it is named.
    """
    for name in ("campaigns", "rows", "width", "table_rows"):
        least = SMALL_FIELDS + 1000 if name == "table_rows" else 1
        for value in getattr(options, name) or (0,):
            if value < least:
                flag = name.replace("_", "-")
                raise InputError(f"--{flag}: expected numbers of {least} or more, got {value}")
    if options.steps < 1 or options.margin < 0:
        raise InputError("--steps: expected 1 or more, and --margin: 0 or more")
    known = {"--benchmarks": BENCHMARKS, "--paths": tuple(ways(sizes(options)[0]))}
    for flag, names in (("--benchmarks", options.benchmarks), ("--paths", options.paths)):
        for name in names:
            if name not in known[flag]:
                raise InputError(f"{flag}: unknown {name!r}; choose from {', '.join(known[flag])}")


def run(options: Options, progress: Progress) -> tuple[list[Record], list[str]]:
    """All benchmarks of the options; their records, and what was left out for lack of memory."""
    wanted = set(options.benchmarks)
    progress("measure the machine's limits", 0, 1)
    bench = Bench(options, measure_limits, progress)
    if "prepare" in wanted:
        bench.prepare()
    for _, group in groupby(bench.sizes, key=lambda size: size[:3]):
        with tempfile.TemporaryDirectory() as folder:
            inputs = []
            for size in group:
                data = Path(folder) / str(size.table_rows)
                write_dataset(synthetic(size), data)
                dataset = open_dataset(data)
                sampler = CampaignSampler(
                    dataset,
                    np.arange(dataset.campaigns),
                    seed=0,
                    campaigns_per_step=size.campaigns,
                    rows=size.rows,
                    disjoint=OFFICIAL.disjoint,
                )
                batches = [sampler(number) for number in range(INPUTS)]
                inputs.append(Input(size, dataset, sampler, batches))
                if "sample" in wanted:
                    bench.sample(size, sampler)
                if "customise" in wanted:
                    bench.customise(size, dataset)
                if "score" in wanted:
                    bench.score(size, dataset)
            if wanted & {"meta-step", "end to end"}:
                bench.steps(inputs)
            bench.done += len(inputs)
    return bench.records, bench.left_out


def main(options: Options) -> int:
    """Runs the command; its exit code: 1 if --compare found a loss."""
    if options.quick:
        options = replace(
            options,
            campaigns=(OFFICIAL.campaigns_per_step,),
            rows=(OFFICIAL.rows,),
            width=(OFFICIAL.width,),
            table_rows=(334_494, 3_344_940),
            benchmarks=("meta-step",),
            paths=("row-local", "whole-table"),
        )
    check(options)
    old = None if options.compare is None else read_records(options.compare)
    options.out.mkdir(parents=True, exist_ok=True)
    with ui.progress_display(ui.screen()) as progress:
        records, left_out = run(options, progress)
    plain = [asdict(record) for record in records]
    if options.json is not None:
        write_json(options.json, plain)
    base = (options.campaigns[0], options.rows[0], options.width[0], options.table_rows[0])
    figures(records, base, options.out)
    machine = ", ".join([device_name(), *(f"{name} {v}" for name, v in versions().items())])
    report = "\n".join([machine, "", table(records), *(f"- left out: {line}" for line in left_out)])
    drawn = "![Seconds a meta-step](step_time.png)\n![Examples a second](throughput.png)\n"
    (options.out / "report.md").write_text(f"# Throughput\n\n{report}\n\n{drawn}")
    print(report)
    if old is None:
        return 0
    lines, lost = compare(old, plain, options.margin)
    print("\n".join(lines))
    return int(lost)


if __name__ == "__main__":
    ui.run(lambda: sys.exit(main(tyro.cli(Options, prog="python -m experiments.throughput"))))
