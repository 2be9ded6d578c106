"""Methods that take list lengths as additional user fields; see `data.list_lengths`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import cast

from metaheac_jax.customise.score import AdaptedScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.list_lengths import Lengths, with_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.stages import Adapt, Restore, Run, Train, Trained
from metaheac_jax.model import AdaptedWeights, Scorer, State


def with_list_lengths(method: Method) -> Method:
    """The same method, to which list lengths are user fields too.

    Its scorers take users without them.
    """
    assert method.restore is not None  # it scores with a network
    return replace(
        method,
        train=_train_with_lengths(method.train),
        adapt=_adapt_with_lengths(method.adapt),
        restore=restore_with_lengths(method.restore),
    )


def restore_with_lengths(restore: Restore) -> Restore:
    """The same `Restore`, to which list lengths are user fields too."""

    def longer(run: Run, state: State, campaign: Campaign, adapted: AdaptedWeights) -> Scorer:
        run, [campaign], lengths = _lengthened(run, [campaign])
        return _taking_users(restore(run, state, campaign, adapted), lengths)

    return longer


def _train_with_lengths(train: Train) -> Train:
    def longer(run: Run) -> Trained:
        return train(_lengthened(run, ())[0])

    return longer


def _adapt_with_lengths(adapt: Adapt) -> Adapt:
    def longer(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        run, campaigns, lengths = _lengthened(run, campaigns)
        watch = run.watch

        def on_step(step: int, models: Callable[[], list[Scorer]]) -> None:
            if watch is not None:
                watch(step, lambda: [_taking_users(model, lengths) for model in models()])

        run = replace(run, watch=None if watch is None else on_step)
        return [_taking_users(model, lengths) for model in adapt(run, state, campaigns)]

    return longer


def _lengthened(run: Run, campaigns: Sequence[Campaign]) -> tuple[Run, list[Campaign], Lengths]:
    """A run and campaigns with list lengths as fields, and the object that adds them to users."""
    dataset, lengths = with_lengths(run.dataset)
    moved = [replace(own, rows=lengths.campaigns(own.rows)) for own in campaigns]
    return replace(run, dataset=dataset), moved, lengths


def _taking_users(scorer: Scorer, lengths: Lengths) -> Scorer:
    """The scorer of a network with list lengths, which adds them to the users that it is given."""
    return replace(cast(AdaptedScorer, scorer), lengths=lengths)
