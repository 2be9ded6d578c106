"""The online stage of many campaigns: groups of them, and the epochs of a group.

Axes: G campaigns adapted together, n examples of a campaign, B examples of a minibatch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.customise.early_stopping import EarlyStopping, hold_out
from metaheac_jax.errors import Diverged
from metaheac_jax.model import AdaptedWeights, Watch
from metaheac_jax.progress import Progress

A = TypeVar("A")
B = TypeVar("B")

#: Positions among the examples of each of the G campaigns.
Picks = Sequence[np.ndarray]


class OnlineOptions(NamedTuple):
    """The options of one online stage; see `customiser.Customiser`."""

    learning_rate: float
    epochs: int
    patience: int | None
    holdout: float
    watch: Watch[AdaptedWeights] | None


class Adaptation(Protocol):
    """Campaigns under adaptation, with the state of their optimisers."""

    def step(self, picks: Picks) -> None:
        """Adapts by a minibatch of each campaign: at most B examples, none if it is done."""

    def models(self) -> Any:
        """The models as they are, stacked."""

    def summed_losses(self, models: Any, picks: Picks) -> np.ndarray:
        """(G,) losses of models, summed over these examples of each campaign."""

    def select(self, better: np.ndarray, new: Any, old: Any) -> Any:
        """The new models where (G,) ``better`` holds, the old ones elsewhere; old is consumed."""

    def adapted(self, models: Any) -> list[AdaptedWeights]:
        """The weights of each campaign."""


def run_epochs(
    adaptation: Adaptation,
    labels: Sequence[np.ndarray],
    rngs: Sequence[np.random.Generator],
    options: OnlineOptions,
    *,
    batch_size: int,
    names: Sequence[str],
) -> list[AdaptedWeights]:
    """Adapts campaigns for some epochs, or until their held-out losses stop falling.

    Where weights become infinite or NaN, the best finite model of an earlier epoch is kept.

    Args:
      adaptation: the campaigns.
      labels: (n,) of each campaign.
      rngs: of each campaign; decide its held-out examples and the order of its minibatches.
      options: see `customiser.Customiser`.
      batch_size: B.
      names: of each campaign, for messages.

    Raises:
      Diverged: weights are not finite, and no epoch before was better than the start.
    """
    watch, patience = options.watch, options.patience
    fraction = 0.0 if patience is None else options.holdout
    split = [hold_out(label, fraction, rng) for label, rng in zip(labels, rngs, strict=True)]
    fit, held = zip(*split, strict=True)
    stopping = None
    if patience is not None:
        models = adaptation.models()
        stopping = EarlyStopping(
            models,
            adaptation.summed_losses(models, held),
            patience=patience,
            select=adaptation.select,
        )
    number, diverged = 0, dict[int, int]()  # position of a campaign -> steps by then
    if watch is not None:
        watch(number, lambda: adaptation.adapted(adaptation.models()))
    for _ in range(options.epochs):
        going = np.ones(len(labels), bool) if stopping is None else stopping.going
        orders = [
            rng.permutation(pick) if go else pick[:0]
            for rng, pick, go in zip(rngs, fit, going, strict=False)
        ]
        for picks in minibatches(orders, batch_size):
            adaptation.step(picks)
            number += 1
            if watch is not None:
                watch(number, lambda: adaptation.adapted(adaptation.models()))
        models = adaptation.models()
        finite = np.array(jax.device_get(list(map(_finite, adaptation.adapted(models)))))
        for place in np.flatnonzero(~finite).tolist():
            diverged.setdefault(place, number)
        if stopping is not None:
            losses = adaptation.summed_losses(models, held)
            losses[: len(finite)][~finite] = np.inf
            stopping.update(models, losses)
            if not stopping.going.any():
                break
    for place, steps in diverged.items():
        if stopping is None or not stopping.improved[place]:
            raise Diverged(
                f"{names[place]}: the adapted weights are not finite after step {steps}; lower the "
                "online learning rate"
            )
    return adaptation.adapted(adaptation.models() if stopping is None else stopping.best)


@jax.jit
def _finite(adapted: AdaptedWeights) -> jax.Array:
    """Whether all weights are finite."""
    leaves = jax.tree.leaves((adapted.network, adapted.values))
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in leaves]).all()


def minibatches(picks: Picks, length: int) -> Iterator[Picks]:
    """The picked examples of each campaign, ``length`` at a time; none where there are no more."""
    for number in range(math.ceil(max(map(len, picks)) / length)):
        yield [pick[number * length : (number + 1) * length] for pick in picks]


def adapt_groups(
    adapt: Callable[[list[int]], list[AdaptedWeights]],
    sizes: Sequence[int],
    *,
    group_size: int,
    in_turn: bool,
    progress: Progress,
) -> list[AdaptedWeights]:
    """Adapts all campaigns, the largest first.

    Args:
      adapt: adapts a group of campaigns, by position.
      sizes: number of examples of each campaign.
      group_size: G.
      in_turn: whether groups wait for each other; otherwise two are under way at a time.
      progress: receives the number of campaigns done.
    """
    by_size = sorted(range(len(sizes)), key=lambda c: -sizes[c])
    groups = [by_size[first : first + group_size] for first in range(0, len(sizes), group_size)]
    results: dict[int, AdaptedWeights] = {}
    progress("customise", 0, len(sizes))
    adapted = map(adapt, groups) if in_turn else _two_at_a_time(adapt, groups)
    for group, models in zip(groups, adapted, strict=True):
        results |= zip(group, models, strict=True)
        progress("customise", len(results), len(sizes))
    return [results[c] for c in range(len(sizes))]


def _two_at_a_time(function: Callable[[A], B], items: Sequence[A]) -> Iterator[B]:
    """As `map`, in two threads: while one waits, the other's products use a CPU's cores."""
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: A) -> B:
        # A thread does not inherit what its caller has set for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    with ThreadPoolExecutor(2, "customise") as threads:
        yield from threads.map(call, items)
