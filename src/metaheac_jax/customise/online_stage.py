"""The online stage for many campaigns: their groups, and the epochs of a group.

Axes: G campaigns adapted together, n examples of a campaign, B examples of a minibatch.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.customise.early_stopping import EarlyStopping, hold_out
from metaheac_jax.customise.kept import KeptCampaigns
from metaheac_jax.data.batches import Batch, check_batch
from metaheac_jax.errors import Diverged, check_whole
from metaheac_jax.model import AdaptedWeights, Watch, Weights
from metaheac_jax.progress import Progress, silent
from metaheac_jax.table.layout import Layout
from metaheac_jax.threads import in_threads

_HELD_OUT = 0.1  # fraction of the seeds, and of the non-seeds, that decide when to stop

#: Positions among the examples of each of the G campaigns.
Picks = Sequence[np.ndarray]


class OnlineOptions(NamedTuple):
    """The options of one online stage; see `OnlineStage`."""

    learning_rate: float
    epochs: int
    patience: int | None
    watch: Watch[AdaptedWeights] | None
    kept: KeptCampaigns | None


class OnlineStage(ABC):
    """Adapts general weights to campaigns; build it once and use it for every campaign."""

    def __init__(self, layout: Layout, batch_size: int) -> None:
        """Args:
        layout: layout of the ids in the examples.
        batch_size: B; examples are shuffled again in every epoch.

        Raises:
          InputError: the batch size is not a whole number of 1 or more.
        """
        check_whole("batch_size", batch_size, 1)
        self._layout, self._batch_size = layout, batch_size

    def __call__(
        self,
        weights: Weights,
        campaigns: Sequence[Batch],
        *,
        seed: int = 0,
        learning_rate: float = 1e-3,
        epochs: int = 2,
        patience: int | None = None,
        names: Sequence[str] | None = None,
        progress: Progress = silent,
        watch: Watch[AdaptedWeights] | None = None,
        kept: KeptCampaigns | None = None,
    ) -> list[AdaptedWeights]:
        """Adapts the general weights to each campaign.

        Args:
          weights: the general weights; unchanged.
          campaigns: examples D_c per campaign: leaves (n, ...), ids are table rows, all weights 1.
          seed: random seed of held-out examples and minibatches. Each campaign draws from a
            generator of its own, so its weights do not depend on the others, but for rounding.
          learning_rate: learning rate of Adam, which starts afresh for each campaign.
          epochs: passes over the examples; with ``patience``, the maximum.
          patience: None runs all epochs, as the authors' program does. With a number, a
            tenth of the seeds and of the non-seeds (at least one of each) is held out, the model
            with the lowest held-out loss is kept, and adapting stops after that many epochs without
            a lower one (the paper: "until the loss converges"). The general model counts too: a
            campaign with a single seed or non-seed keeps it.
          names: names of the campaigns, for messages.
          progress: receives the number of campaigns done.
          watch: called before the first step and after every step; the largest campaigns come
            first, G at a time.
          kept: campaigns that an interrupted call has adapted; this call adds its own.

        Returns:
          The adapted weights of each campaign, in the order given.

        Raises:
          InputError: ``epochs`` or ``patience`` is out of range, or a campaign has no examples, or
            invalid ones; see `batches.check_batch`.
          Diverged: a campaign's weights are not finite and, with ``patience``, no earlier epoch was
            better than the general model.
        """
        check_whole("epochs", epochs, 0)
        if patience is not None:
            check_whole("patience", patience, 1)
        num_rows = weights.table.shape[0]
        if names is None:
            names = [f"campaign {c} of {len(campaigns)}" for c in range(len(campaigns))]
        for name, batch in zip(names, campaigns, strict=True):
            check_batch(batch, self._layout, num_rows, name)
        rate = float(learning_rate)
        options = OnlineOptions(rate, epochs, patience, watch, kept)
        return self._customise(weights, campaigns, names, seed, options, progress)

    @abstractmethod
    def _customise(
        self,
        weights: Weights,
        campaigns: Sequence[Batch],
        names: Sequence[str],
        seed: int,
        options: OnlineOptions,
        progress: Progress,
    ) -> list[AdaptedWeights]:
        """Adapts the weights to campaigns that have been checked."""


class Adaptation(Protocol):
    """Campaigns that are being adapted, with the state of their optimisers."""

    def step(self, picks: Picks) -> None:
        """Adapts with one minibatch per campaign: at most B examples, none if it is done."""

    def models(self) -> Any:
        """The current models, stacked."""

    def summed_losses(self, models: Any, picks: Picks) -> np.ndarray:
        """(G,) losses of the models, summed over the picked examples of each campaign."""

    def select(self, better: np.ndarray, new: Any, old: Any) -> Any:
        """The new models where (G,) ``better`` holds, the old ones elsewhere; old is consumed."""

    def adapted(self, models: Any) -> list[AdaptedWeights]:
        """The adapted weights of each campaign."""


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

    If weights become infinite or NaN, early stopping keeps the best finite model.

    Args:
      adaptation: the campaigns.
      labels: (n,) labels of each campaign.
      rngs: one generator per campaign, for its held-out examples and the order of its minibatches.
      options: see `OnlineStage`.
      batch_size: B.
      names: names of the campaigns, for messages.

    Raises:
      Diverged: weights are not finite, and no earlier epoch was better than the start.
    """
    watch, patience = options.watch, options.patience
    fraction = 0.0 if patience is None else _HELD_OUT
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
    number, diverged = 0, dict[int, int]()  # position of a campaign -> steps until then
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
    """Yields the picked examples of each campaign, ``length`` at a time, until none are left."""
    for number in range(math.ceil(max(map(len, picks)) / length)):
        yield [pick[number * length : (number + 1) * length] for pick in picks]


def adapt_groups(
    adapt: Callable[[list[int]], list[AdaptedWeights]],
    campaigns: Sequence[Batch],
    options: OnlineOptions,
    *,
    group_size: int,
    in_turn: bool,
    progress: Progress,
) -> list[AdaptedWeights]:
    """Adapts all campaigns, the largest first.

    Args:
      adapt: adapts a group of campaigns, by position.
      campaigns: examples of each campaign.
      options: see `OnlineStage`.
      group_size: G.
      in_turn: whether groups are adapted one after another; otherwise two are adapted at a time.
      progress: receives the number of campaigns done.
    """
    kept, sizes = options.kept, []
    results: dict[int, AdaptedWeights] = {}
    for c, batch in enumerate(campaigns):
        sizes.append(len(batch.label))
        found = None if kept is None else kept.find(batch)
        if found is not None:
            results[c] = found
    by_size = sorted(set(range(len(sizes))) - set(results), key=lambda c: -sizes[c])
    groups = [by_size[first : first + group_size] for first in range(0, len(by_size), group_size)]
    progress("customise", len(results), len(sizes))
    adapted = (
        (adapt(group) for group in groups) if in_turn else in_threads(adapt, groups, num_threads=2)
    )
    with closing(adapted):  # if this fails, waiting groups are not started
        for group, models in zip(groups, adapted, strict=True):
            for c, weights in zip(group, models, strict=True):
                results[c] = weights
                if kept is not None:
                    kept.add(campaigns[c], weights)
            progress("customise", len(results), len(sizes))
    return [results[c] for c in range(len(sizes))]
