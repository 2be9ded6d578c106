"""The time of scoring and customising with a shared first layer, and without one.

Axes: C campaigns, P users of a pool, k embedding width, R table rows, n examples of a campaign, B
examples of a minibatch.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from experiments.throughput.benchmarks import in_turns
from experiments.throughput.inputs import Size, synthetic
from experiments.throughput.machine_limits import theory_flops
from experiments.throughput.meta_steps import NETWORK, untrained
from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.customise.heads import HeadCustomiser
from metaheac_jax.customise.joint import score_jointly
from metaheac_jax.customise.minibatches import stack_minibatches
from metaheac_jax.customise.online_stage import minibatches
from metaheac_jax.customise.score import AdaptedScorer, PoolScorer
from metaheac_jax.data.batches import Batch, generator, unstacked
from metaheac_jax.model import AdaptedWeights, Weights, write_arrays
from metaheac_jax.progress import Progress
from metaheac_jax.schema import TENCENT
from metaheac_jax.settings import OFFICIAL
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.training.losses import build_loss

POOL = 8192  # users scored
TABLE_ROWS = 334_494
SEEDS, NON_SEEDS = 4_000, 80_000  # of the campaign that is customised


@dataclass(frozen=True)
class ScoringSpeed:
    """The speed of scoring a pool for many campaigns.

    Attributes:
      width: k.
      campaigns: C.
      shared: user-campaign scores per second with one first layer for all campaigns.
      full: the same with a full pass of the network for each campaign, by models without rows of
        their own; rows cost a copy of the table per block of users.
      flops: the FLOPs of full passes, as a multiple of those with a shared first layer.
    """

    width: int
    campaigns: int
    shared: float
    full: float
    flops: float

    @property
    def ratio(self) -> float:
        """How many times as fast scoring is with a shared first layer."""
        return self.shared / self.full


def time_scoring(
    width: int, campaigns: Sequence[int], *, num_rounds: int, progress: Progress
) -> list[ScoringSpeed]:
    """Times both ways in turns, for each number of campaigns; takes medians over the rounds."""
    size = Size(max(campaigns), OFFICIAL.batch_size, width, TABLE_ROWS)
    data = synthetic(size, num_users=POOL)
    weights, users = untrained(size, data.layout), np.asarray(data.user_rows[:])
    pool, nothing = PoolScorer(NETWORK, data.layout), np.empty(0, np.int32)
    later = NETWORK.later_layers(weights.network)
    scorers = [
        AdaptedScorer(
            pool,
            weights,
            AdaptedWeights(_perturbed(later, c), nothing, weights.table[:0]),
            data.campaign_rows[c % data.num_campaigns],
        )
        for c in range(size.campaigns)
    ]

    def timed(what: str, run: Callable[[], Any]) -> list[float]:
        progress(f"score: width {width}, {what}", 0, 1)
        began = time.perf_counter()
        run()
        return [time.perf_counter() - began]

    turns: list[Callable[[], list[float]]] = []
    for count in campaigns:
        some = scorers[:count]
        together, alone = partial(score_jointly(some), users), partial(_score_each, some, users)
        turns.append(partial(timed, f"{count} campaigns together", together))
        turns.append(partial(timed, f"{count} campaigns one by one", alone))
    seconds = [float(np.median(s)) for s in in_turns(turns, num_rounds)]
    return [
        ScoringSpeed(
            width,
            count,
            shared=POOL * count / seconds[2 * number],
            full=POOL * count / seconds[2 * number + 1],
            flops=flops_ratio(width, count),
        )
        for number, count in enumerate(campaigns)
    ]


def flops_ratio(width: int, campaigns: int) -> float:
    """FLOPs of C full passes, divided by those of one first layer and C times the later layers."""
    full = theory_flops(NETWORK, num_examples=1, num_campaigns=0, width=width, derivative="forward")
    first = 2 * len(TENCENT.user) * width * NETWORK.num_experts * NETWORK.widths[0]
    return campaigns * full / (first + campaigns * (full - first))


def _score_each(scorers: Sequence[AdaptedScorer], users: np.ndarray) -> list[np.ndarray]:
    return [scorer(users) for scorer in scorers]


def _perturbed(params: Any, seed: int) -> Any:
    """Parameters of a campaign, for the benchmark: the given ones with noise."""
    rng = generator(seed, 0)
    return jax.tree.map(
        lambda leaf: leaf + 0.01 * rng.normal(size=leaf.shape).astype(np.float32), params
    )


@dataclass(frozen=True)
class CustomisingSpeed:
    """The speed of customising one campaign.

    Attributes:
      examples: n.
      minibatches: number of minibatches in all epochs.
      seconds: by way: only heads, network and touched rows, network and whole table.
      size: bytes on disk of the customised model, by way.
    """

    examples: int
    minibatches: int
    seconds: dict[str, float]
    size: dict[str, int]


def time_customising(
    *, width: int = 64, num_seeds: int = SEEDS, num_others: int = NON_SEEDS, progress: Progress
) -> CustomisingSpeed:
    """Customises a campaign with the official settings in three ways, one after the other.

    Each way is compiled before it is timed.
    """
    epochs, batch_size = OFFICIAL.online_epochs, OFFICIAL.batch_size
    count = num_seeds + num_others
    data = synthetic(Size(1, batch_size, width, TABLE_ROWS), num_users=count)
    weights = untrained(Size(1, batch_size, width, TABLE_ROWS), data.layout)
    examples = Batch(
        Ids(np.asarray(data.user_rows[:]), data.campaign_rows[0]),
        (np.arange(count) < num_seeds).astype(np.float32),
        np.ones(count, np.float32),
    )
    heads = HeadCustomiser(NETWORK, data.layout, batch_size=batch_size)
    touched = Customiser(NETWORK, data.layout, batch_size=batch_size)
    whole = whole_table_adam(data.layout, batch_size)
    ways: dict[str, Callable[[int], Any]] = {
        "heads": lambda epochs: heads(weights, [examples], epochs=epochs)[0],
        "touched rows": lambda epochs: touched(weights, [examples], epochs=epochs)[0],
        "whole table": lambda epochs: whole(weights, examples, epochs),
    }
    seconds, sizes = {}, {}
    for number, (name, run) in enumerate(ways.items()):
        progress(f"customise: {name}", number, len(ways))
        jax.block_until_ready(run(1))
        began = time.perf_counter()
        model = jax.block_until_ready(run(epochs))
        seconds[name] = time.perf_counter() - began
        sizes[name] = size_on_disk(model)
    return CustomisingSpeed(count, epochs * -(-count // batch_size), seconds, sizes)


def size_on_disk(model: AdaptedWeights | dict[str, Any]) -> int:
    """Bytes of the arrays' files, without padding, as in a campaign's folder."""
    if isinstance(model, AdaptedWeights):
        real = model.rows < TABLE_ROWS
        arrays: dict[str, Any] = model._replace(
            rows=model.rows[real], values=model.values[real]
        )._asdict()
    else:
        arrays = model
    with TemporaryDirectory() as folder:
        return sum(path.stat().st_size for path in write_arrays(Path(folder), arrays))


def whole_table_adam(
    layout: Layout, batch_size: int
) -> Callable[[Weights, Batch, int], dict[str, Any]]:
    """Builds the plain way to customise: `optax.adam` over the network and the whole table.

    Returns:
      A function of general weights, examples and a number of epochs that returns the parameters.
    """
    loss, adam = build_loss(NETWORK, layout), optax.adam(OFFICIAL.online_learning_rate)

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, opt_state: Any, batch: Batch) -> tuple[Any, Any]:
        updates, opt_state = adam.update(jax.grad(loss)(params, batch), opt_state)
        return optax.apply_updates(params, updates), opt_state

    def customise(weights: Weights, examples: Batch, epochs: int) -> dict[str, Any]:
        params = jax.tree.map(jnp.copy, {"network": weights.network, "table": weights.table})
        opt_state, rng, pad = adam.init(params), generator(0, 0), len(weights.table)
        for _ in range(epochs):
            order = rng.permutation(len(examples.label))
            for [some] in minibatches([order], batch_size):
                [batch] = unstacked(stack_minibatches([examples], [some], batch_size, 0, pad))
                params, opt_state = step(params, opt_state, batch)
        return params

    return customise
