"""The benchmarks: what each runs, how often, and its record.

Axes: C campaigns of a step, P users of a pool.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.comparison.provenance import device_name, provenance, versions
from experiments.throughput.arithmetic import executed_flops
from experiments.throughput.breakdown import step_breakdown
from experiments.throughput.data_sheets import DATA_SHEETS, DataSheet
from experiments.throughput.inputs import Size
from experiments.throughput.machine_limits import (
    Derivative,
    Limits,
    environment,
    forget_high_water,
    free_memory,
    high_water,
    theory_bytes,
    theory_flops,
)
from experiments.throughput.meta_steps import (
    NETWORK,
    Program,
    Way,
    compile_step,
    num_parameters,
    quality,
    untrained,
    ways,
)
from experiments.throughput.records import Record
from metaheac_jax.backend import campaigns_at_once
from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.customise.score import PoolScorer
from metaheac_jax.data.batches import CampaignBatch, campaign_examples
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.data.simulation import write_world
from metaheac_jax.data.sources import tencent
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.model import AdaptedWeights, Weights
from metaheac_jax.progress import Progress
from metaheac_jax.settings import OFFICIAL
from metaheac_jax.table.layout import Ids
from metaheac_jax.training.loop import train
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.step import RowStep, plain_gradient

BENCHMARKS = ("meta-step", "end to end", "sample", "to device", "customise", "score", "prepare")
NUM_INPUTS = 8  # batches that take turns; the sampler gives its first 8 batches one shape
POOL, CHUNK = 32_768, 1024  # users to score, and users per chunk
QUALITY_STEPS = 3 * NUM_INPUTS  # steps of the training whose loss and AUC show a precision's cost
ADAPTED_ROWS = 8192  # adapted table rows of the customised model that scores the users
WORLD_USERS = 50_000  # users of the world that is prepared
MAX_SECONDS = 10  # runs of a benchmark stop after this time
MAX_TURN_SECONDS = 2  # a turn of the meta-step stops after this time
MIN_RUNS, MIN_ROUNDS = 3, 3


def timed(run: Callable[[int], Any], num_runs: int) -> tuple[float, list[float]]:
    """Seconds of the first run, and of up to ``num_runs`` further runs.

    The further runs stop after `MAX_SECONDS`, but not before `MIN_RUNS` of them.

    Args:
      run: called as ``run(number)``; the time includes the wait for its result.
      num_runs: number of runs after the first.
    """
    seconds: list[float] = []
    while len(seconds) <= num_runs and (len(seconds) <= MIN_RUNS or sum(seconds[1:]) < MAX_SECONDS):
        began = time.perf_counter()
        jax.block_until_ready(run(len(seconds)))
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1:]


def in_turns(runs: Sequence[Callable[[], list[float]]], num_rounds: int) -> list[list[float]]:
    """The results of each run, concatenated over the rounds; an extra first round is left out.

    The pace of a shared machine changes. With turns, a slow period slows all runs of a round.
    """
    results = [[run() for run in runs] for _ in range(num_rounds + 1)][1:]
    return [[value for turn in turns for value in turn] for turns in zip(*results, strict=True)]


class Input(NamedTuple):
    """A size, a dataset of that size, its sampler, and the batches of the first steps."""

    size: Size
    dataset: Dataset
    sampler: CampaignSampler
    batches: list[CampaignBatch]


class Trial:
    """A compiled meta-step with its state. A turn returns the seconds per step."""

    def __init__(
        self,
        program: Program,
        weights: Weights,
        batches: Sequence[Any],
        sampler: CampaignSampler,
    ) -> None:
        """Args:
        program: the step.
        weights: initial values; consumed.
        batches: `NUM_INPUTS` batches, each the arguments of the step after the state.
        sampler: draws the batches of `end_to_end`.
        """
        self._program, self._sampler, self._first = program, sampler, True
        self._state = program.init(*weights)
        # Arrays that are placed on several devices stay where they are.
        self._batches = [jax.tree.map(jnp.asarray, batch) for batch in batches]

    def bare(self) -> list[float]:
        """Takes one step per batch, or as many as the first turn takes in `MAX_TURN_SECONDS`."""
        seconds: list[float] = []
        for batch in self._batches:
            began = time.perf_counter()
            self._state, info = self._program.step(self._state, *batch)
            jax.block_until_ready((self._state, info))
            seconds.append(time.perf_counter() - began)
            if self._first and sum(seconds) > MAX_TURN_SECONDS:
                break
        # All turns have the same number of steps; otherwise slow turns would count for less.
        self._batches, self._first = self._batches[: len(seconds)], False
        return seconds

    def breakdown(self, folder: Path | None) -> dict[str, float]:
        """Where the time of these steps goes; see `breakdown.step_breakdown`."""

        def step(number: int) -> Any:
            batch = self._batches[number % len(self._batches)]
            self._state, info = self._program.step(self._state, *batch)
            return self._state, info

        return step_breakdown(self._program.text(), step, NUM_INPUTS, folder)

    def end_to_end(self) -> list[float]:
        """Trains as methods do (`training.loop.train`), with sampling and log; mean of 8 steps.

        The time includes one check that all weights are finite, which methods make more rarely:
        where they judge or save.
        """
        step = RowStep(self._program.init, self._program.step)
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            log = Path(folder) / "log.jsonl"
            self._state, _ = train(step, self._state, self._sampler, num_steps=NUM_INPUTS, log=log)
        jax.block_until_ready(self._state)
        return [(time.perf_counter() - began) / NUM_INPUTS]


class Bench:
    """Runs benchmarks and keeps their records.

    The machine's limits are measured again for each benchmark and for each way of the meta-step,
    since the pace of a shared machine changes.

    Attributes:
      records: records of all benchmarks so far.
      left_out: one line per meta-step that does not fit in memory.
      breakdowns: where the time of the row-local meta-steps of one size goes, by path.
    """

    def __init__(
        self,
        measure: Callable[[], Limits],
        progress: Progress,
        *,
        benchmarks: Sequence[str] = BENCHMARKS,
        paths: Sequence[str] = (),
        num_runs: int = 20,
        num_sizes: int = 1,
        traced: Size | None = None,
        profile: Path | None = None,
    ) -> None:
        """Args:
        measure: returns the machine's limits.
        progress: receives the benchmark and the number of sizes done.
        benchmarks: which of `BENCHMARKS` to run.
        paths: which ways of the meta-step to run; all if empty.
        num_runs: timed runs per benchmark.
        num_sizes: total number of sizes.
        traced: the size whose row-local meta-steps are broken down.
        profile: a folder for their traces.
        """
        self._measure, self._progress = measure, progress
        self._benchmarks, self._paths, self._num_runs = benchmarks, paths, num_runs
        self._num_sizes, self._num_done = num_sizes, 0
        self.records: list[Record] = []
        self.left_out: list[str] = []
        self.breakdowns: dict[str, dict[str, float]] = {}
        self._traced, self._profile = traced, profile

    def run(self, inputs: Sequence[Input]) -> None:
        """Runs all benchmarks for sizes that differ only in the table's rows."""
        for size, dataset, sampler, batches in inputs:
            if "sample" in self._benchmarks:
                self.sample(size, sampler)
            if "to device" in self._benchmarks:
                self.to_device(size, batches)
            if "customise" in self._benchmarks:
                self.customise(size, dataset)
            if "score" in self._benchmarks:
                self.score(size, dataset)
        self.meta_steps(inputs)
        self._num_done += len(inputs)

    def prepare(self) -> None:
        """Times preparing a dataset on disk from a small world in the competition's format."""
        if "prepare" not in self._benchmarks:
            return
        with tempfile.TemporaryDirectory() as folder:
            world, target = Path(folder) / "world", Path(folder) / "prepared"
            write_world(world, users=WORLD_USERS, min_pool_examples=20, progress=self._progress)
            self._tell("prepare")
            _, seconds = timed(lambda _: tencent.prepare(world, target).num_users, 5)
            dataset = open_dataset(target)
            size = Size(dataset.num_campaigns, 0, 0, dataset.num_rows)
            self.add("prepare", "tencent", size, seconds, dataset.num_users)

    def sample(self, size: Size, sampler: CampaignSampler) -> None:
        """Times the sampler alone, on memory-mapped columns."""
        self._tell(f"sample, {size}")
        _, seconds = timed(sampler, self._num_runs)
        self.add("sample", "memory-mapped", size, seconds, 2 * size.campaigns * size.batch_size)

    def to_device(self, size: Size, batches: Sequence[CampaignBatch]) -> None:
        """Times the transfer of a sampled batch from the host to the device."""
        self._tell(f"to device, {size}")
        _, seconds = timed(lambda n: jax.device_put(batches[n % NUM_INPUTS]), self._num_runs)
        self.add("to device", "batch", size, seconds, 2 * size.campaigns * size.batch_size)

    def customise(self, size: Size, dataset: Dataset) -> None:
        """Times customising C campaigns for the official number of epochs, per minibatch."""
        self._tell(f"customise, {size}")
        weights, epochs = untrained(size, dataset.layout), OFFICIAL.online_epochs
        examples = [campaign_examples(dataset, dataset.campaign(c)) for c in range(size.campaigns)]
        customiser = Customiser(
            NETWORK,
            dataset.layout,
            batch_size=size.batch_size,
            campaigns_at_once=campaigns_at_once(size.campaigns),
        )
        first, seconds = timed(
            lambda _: customiser(weights, examples, epochs=epochs), self._num_runs
        )
        num_minibatches = epochs * sum(
            math.ceil(len(batch.label) / size.batch_size) for batch in examples
        )
        minibatch = examples[0].pick(slice(size.batch_size))
        touched = dataset.layout.row_index(size.table_rows).distinct(minibatch.ids)
        gradient = plain_gradient(build_loss(NETWORK, dataset.layout))
        self.add(
            "customise",
            "row-local",
            size,
            [of_all / num_minibatches for of_all in seconds],
            size.batch_size,
            executed_flops=executed_flops(gradient, weights._asdict(), minibatch),
            theory_flops=_theory(size, size.batch_size, "gradient"),
            theory_bytes=theory_bytes(
                num_rows=len(touched),
                width=size.width,
                num_parameters=num_parameters(weights.network),
            ),
            compile_seconds=first - float(np.median(seconds)),
        )

    def score(self, size: Size, dataset: Dataset) -> None:
        """Times scoring a pool of `POOL` users with a customised model."""
        self._tell(f"score, {size}")
        weights = untrained(size, dataset.layout)
        everyone = np.asarray(dataset.user_rows[:])
        users = np.resize(everyone, (POOL, everyone.shape[1]))
        rows = np.arange(min(ADAPTED_ROWS, size.table_rows), dtype=np.int32)
        adapted = AdaptedWeights(weights.network, rows, weights.table[rows])
        layout, campaign = dataset.layout, dataset.campaign_rows[0]
        scorer = PoolScorer(NETWORK, layout, chunk=CHUNK)

        def of_chunk(network: Any, table: Any, user: Any) -> Any:
            return NETWORK.apply(network, *layout.inputs(table, Ids(user, campaign)))

        num_lookups = int(np.count_nonzero(users < size.table_rows))
        first, seconds = timed(lambda _: scorer(weights, adapted, campaign, users), self._num_runs)
        self.add(
            "score",
            "customised",
            size,
            seconds,
            POOL,
            executed_flops=POOL // CHUNK * executed_flops(of_chunk, *weights, users[:CHUNK]),
            theory_flops=_theory(size, POOL, "forward"),
            # Per user: the ids and the table rows that they name, each read once, and the score.
            theory_bytes=users.nbytes + 4 * size.width * num_lookups + 4 * POOL,
            compile_seconds=first - float(np.median(seconds)),
        )

    def meta_steps(self, inputs: Sequence[Input]) -> None:
        """Times the bare meta-step in every way, and the row-local one end to end.

        The inputs differ only in the table's rows. They take turns with each other and with the
        row-local steps of the same inputs, so that a ratio compares times of the same rounds.
        """
        rivals: dict[Size, Trial] = {}
        for name, way in ways(inputs[0].size).items():
            possible = ("meta-step", "end to end") if name == "row-local" else ("meta-step",)
            wanted = [benchmark for benchmark in possible if benchmark in self._benchmarks]
            if wanted and name in (self._paths or (name,)):
                adds, trials = self._time_way(name, way, wanted, inputs, rivals)
                rivals = trials if name == "row-local" else rivals
                limits = self._measure()
                for add in adds:
                    add(limits=limits)

    def _time_way(
        self,
        name: str,
        way: Way,
        benchmarks: Sequence[str],
        inputs: Sequence[Input],
        rivals: Mapping[Size, Trial],
    ) -> tuple[list[Callable[..., None]], dict[Size, Trial]]:
        """Returns one function per record, which adds it given limits, and the trials by size.

        Args:
          name, way: how the meta-step is computed.
          benchmarks: "meta-step", "end to end" or both.
          inputs: one per size.
          rivals: row-local steps that take turns with this way; empty for the row-local way itself.
        """
        turns: list[Callable[[], list[float]]] = [trial.bare for trial in rivals.values()]
        adds: list[Callable[..., None]] = []
        trials: dict[Size, Trial] = {}
        for size, dataset, sampler, drawn in inputs:
            self._tell(f"meta-step, {name}, {size}")
            batches = [way.place(batch, size.table_rows) for batch in drawn]
            program = compile_step(way, size, batches[0], dataset.layout)
            need, free = program.figures["peak_memory_bytes"], free_memory()
            if free is not None and need > free:
                gib = f"{need / 2**30:.1f} GiB, {free / 2**30:.1f} are free"
                self.left_out.append(f"{name}, {size}: needs {gib}")
                continue
            known = {"precision": way.precision, **program.figures}
            if not way.whole_table:
                known |= quality(program, size, batches, dataset.layout, num_steps=QUALITY_STEPS)
            trials[size] = Trial(program, untrained(size, dataset.layout), batches, sampler)
            for benchmark in benchmarks:
                bare = benchmark == "meta-step"
                turns.append(trials[size].bare if bare else trials[size].end_to_end)
                examples = 2 * size.campaigns * size.batch_size
                adds.append(partial(self.add, benchmark, name, size, examples=examples, **known))
        num_rounds = max(MIN_ROUNDS, math.ceil(self._num_runs / NUM_INPUTS))
        timed_turns = in_turns(turns, num_rounds)
        if self._traced in trials and not way.whole_table:
            folder = self._profile and self._profile / name.replace(" ", "-")
            self.breakdowns[name] = trials[self._traced].breakdown(folder)
        beside = dict(zip(rivals, timed_turns, strict=False))
        timings = timed_turns[len(rivals) :]
        sizes = [size for size in trials for _ in benchmarks]
        for position, (size, seconds) in enumerate(zip(sizes, timings, strict=True)):
            ratio = _ratio(seconds, beside[size], num_rounds) if size in beside else None
            adds[position] = partial(adds[position], seconds=seconds, of_row_local=ratio)
        return adds, trials

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
          benchmark, path, size, examples: as in the record.
          seconds: time of each run.
          precision: precision of the matrix products; it selects the limit of the machine.
          limits: limits of the machine; None measures them.
          **known: further figures of the record.
        """
        memory = high_water()  # measuring the limits takes more than some benchmarks
        low, median, high = np.percentile(seconds, [25, 50, 75]).tolist()
        limits = limits or self._measure()
        peak, flops = limits.matmul[precision], known.get("theory_flops")
        executed = known.get("executed_flops")
        sheet = DATA_SHEETS.get(jax.devices()[0].device_kind, DataSheet({}, 0, ""))
        in_program = "peak_memory_bytes" in known
        figures: dict[str, Any] = {
            "compile_seconds": None,
            "executed_flops": None,
            "theory_flops": None,
            "theory_bytes": None,
            "counted_flops": None,
            "counted_bytes": None,
            "of_row_local": None,
            "loss": None,
            "auc": None,
            "peak_memory_bytes": None if in_program else memory,
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
            precision=precision,
            executed_seconds=executed / peak if executed else None,
            floor_seconds=flops / peak if flops else None,
            share_of_limit=flops / peak / median if flops else None,
            memory_source="compiled program" if in_program else "process",
            matmul_flops_per_second=peak,
            copy_bytes_per_second=limits.copy,
            gather_bytes_per_second=limits.gather,
            sheet_flops_per_second=sheet.matmul.get(precision),
            sheet_bytes_per_second=sheet.memory or None,
            device=device_name(),
            versions=versions(),
            environment={"commit": provenance()["commit"] or "unknown", **environment()},
            **(figures | known),
        )
        self.records.append(record)

    def _tell(self, what: str) -> None:
        self._progress(f"benchmarks: {what}", self._num_done, self._num_sizes)
        forget_high_water()


def _ratio(seconds: Sequence[float], others: Sequence[float], num_rounds: int) -> float:
    """The median over the rounds of the ratio of two programs' median times."""
    ours, theirs = (np.median(np.reshape(s, (num_rounds, -1)), axis=1) for s in (seconds, others))
    return float(np.median(ours / theirs))


def _theory(size: Size, num_examples: int, derivative: Derivative) -> int:
    """FLOPs of the network for users of one campaign."""
    return theory_flops(
        NETWORK,
        num_examples=num_examples,
        num_campaigns=1,
        width=size.width,
        derivative=derivative,
    )
