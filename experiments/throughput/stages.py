"""The stages that are timed, and their records.

Axes: P users of a pool.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.throughput.arithmetic import executed_flops
from experiments.throughput.inputs import Size
from experiments.throughput.steps import NETWORK, WAYS, compile_step, place, untrained
from metaheac_jax.backend import profile
from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import network_scorers
from metaheac_jax.data.batches import CampaignBatch, campaign_examples
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.methods import OFFICIAL
from metaheac_jax.model import AdaptedWeights
from metaheac_jax.progress import Progress
from metaheac_jax.table.layout import Ids
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.step import plain_gradient

NUM_INPUTS = 8  # batches that take turns
POOL = 32_768  # users to score
ADAPTED_ROWS = 8192  # adapted table rows of the customised model that scores the users


class Record(NamedTuple):
    """One timing.

    Attributes:
      stage: sample, meta-step, customise (a minibatch) or score (`POOL` users).
      way: how a meta-step is computed, one of `WAYS`; "" for other stages.
      campaigns, batch_size, width, table_rows: the size.
      median_seconds: median time.
      of_row_local: time over that of the row-local step in the same rounds; median over the rounds.
      gigaflop: of the matrix products that the program executes; None where there are none.
      matmul_gigaflops: rate of a large product on this machine, per second, measured just before.
      memory_bytes: arguments, results and temporaries of a meta-step.
    """

    stage: str
    way: str
    campaigns: int
    batch_size: int
    width: int
    table_rows: int
    median_seconds: float
    of_row_local: float | None = None
    gigaflop: float | None = None
    matmul_gigaflops: float | None = None
    memory_bytes: int | None = None


def in_turns(runs: Sequence[Callable[[], float]], num_rounds: int) -> np.ndarray:
    """(runs, rounds) results of each run; an extra first round is left out.

    The pace of a shared machine changes. With turns, a slow period slows all runs of a round.
    """
    return np.array([[run() for run in runs] for _ in range(num_rounds + 1)][1:]).T


def seconds_of(run: Callable[[], Any]) -> float:
    """Seconds of a run and of the wait for its result."""
    began = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - began


def matmul_rate() -> float:
    """FLOP/s of a product of large float32 matrices; the best of ten."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matrix, product = jnp.full((side, side), 0.5), jax.jit(jnp.matmul)
    product(matrix, matrix).block_until_ready()
    return 2 * side**3 / min(seconds_of(lambda: product(matrix, matrix)) for _ in range(10))


def measure(
    size: Size,
    dataset: Dataset,
    sampler: CampaignSampler,
    *,
    num_rounds: int,
    ways: Sequence[str] = WAYS,
    progress: Progress,
) -> list[Record]:
    """Times all stages at a size."""
    stages: list[tuple[str, Callable[[], Any], int, float | None]] = [
        ("sample", _sampling(sampler), 1, None),
        ("customise", *_customising(size, dataset)),
        ("score", *_scoring(size, dataset)),
    ]
    records = []
    for stage, run, parts, gigaflop in stages:
        progress(f"{stage}, {size.table_rows:,} table rows", len(records), len(stages))
        rate = matmul_rate() / 1e9
        [seconds] = in_turns([lambda run=run: seconds_of(run)], num_rounds) / parts
        median = float(np.median(seconds))
        records.append(Record(stage, "", *size, median, gigaflop=gigaflop, matmul_gigaflops=rate))
    batches = [sampler(number) for number in range(NUM_INPUTS)]
    return records + meta_steps(size, dataset, batches, num_rounds, ways, progress)


def meta_steps(
    size: Size,
    dataset: Dataset,
    batches: Sequence[CampaignBatch],
    num_rounds: int,
    ways: Sequence[str],
    progress: Progress,
) -> list[Record]:
    """Times the meta-step in several ways, which take turns."""
    programs, turns = [], []
    for way in ways:
        progress(f"compile the meta-step, {way}, {size.table_rows:,} table rows", 0, 1)
        placed = [jax.tree.map(jnp.asarray, place(way, batch, size)) for batch in batches]
        program = compile_step(way, size, placed[0], dataset.layout)
        programs.append(program)
        turns.append(_turn(program.step, program.init(*untrained(size, dataset.layout)), placed))
    rate = matmul_rate() / 1e9
    seconds = in_turns(turns, num_rounds)
    ratios = np.median(seconds / seconds[ways.index("row-local")], axis=1)
    medians = np.median(seconds, axis=1)
    return [
        Record("meta-step", way, *size, median, ratio, program.flops / 1e9, rate, program.memory)
        for way, program, median, ratio in zip(
            ways, programs, medians.tolist(), ratios.tolist(), strict=True
        )
    ]


def _turn(
    step: Callable[..., Any], state: Any, batches: Sequence[Sequence[Any]]
) -> Callable[[], float]:
    """Runs a step on every batch; the turn returns the median seconds of a step."""

    def turn() -> float:
        nonlocal state
        seconds = []
        for batch in batches:
            began = time.perf_counter()
            state, info = step(state, *batch)
            jax.block_until_ready((state, info))
            seconds.append(time.perf_counter() - began)
        return float(np.median(seconds))

    return turn


def _sampling(sampler: CampaignSampler) -> Callable[[], Any]:
    numbers = iter(range(1 << 30))
    return lambda: sampler(next(numbers))


def _customising(size: Size, dataset: Dataset) -> tuple[Callable[[], Any], int, float]:
    """A run that customises C campaigns, its number of minibatches, and GFLOP of one of these."""
    weights, epochs = untrained(size, dataset.layout), OFFICIAL.online_epochs
    examples = [campaign_examples(dataset, dataset.campaign(c)) for c in range(size.campaigns)]
    customiser = Customiser(NETWORK, dataset.layout, batch_size=size.batch_size)
    parts = epochs * sum(math.ceil(len(own.label) / size.batch_size) for own in examples)
    gradient = plain_gradient(build_loss(NETWORK, dataset.layout))
    minibatch = examples[0].pick(slice(size.batch_size))
    flops = executed_flops(gradient, weights._asdict(), minibatch)
    return lambda: customiser(weights, examples, epochs=epochs), parts, flops / 1e9


def _scoring(size: Size, dataset: Dataset) -> tuple[Callable[[], Any], int, float]:
    """A run that scores `POOL` users with a customised model, 1, and its GFLOP."""
    weights, layout = untrained(size, dataset.layout), dataset.layout
    everyone = np.asarray(dataset.user_rows[:])
    users = np.resize(everyone, (POOL, everyone.shape[1]))
    rows = np.arange(min(ADAPTED_ROWS, size.table_rows), dtype=np.int32)
    adapted = AdaptedWeights(weights.network, rows, weights.table[rows])
    campaign = dataset.campaign_rows[0]
    [scorer] = network_scorers(NETWORK, layout, weights, [(adapted, campaign)])

    def of_chunk(network: Any, table: Any, user: Any) -> Any:
        return NETWORK.apply(network, *layout.inputs(table, Ids(user, campaign)))

    chunk = profile().chunk
    flops = POOL // chunk * executed_flops(of_chunk, *weights, users[:chunk])
    return lambda: scorer(users), 1, flops / 1e9
