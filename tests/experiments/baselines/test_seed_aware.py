"""The seed-aware method: reference sets apart from examples, directions in pools; it learns."""

import jax
import numpy as np
import pytest
from toy import aucs, dataset, tiny

from experiments.baselines.reference_sets import reference_set
from experiments.baselines.seed_aware import (
    MAX_REFERENCE,
    SeedAware,
    compiled_direction,
)
from experiments.baselines.seed_features import SeedNetwork
from metaheac_jax.customising.score import PoolScorer
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.methods import Run, customise, fit
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.table.layout import Ids

DATA = dataset()
LONGER, _ = with_lengths(DATA)
NETWORK = SeedNetwork(MLP(widths=(5, 5)))


def general_weights():
    return initialise(NETWORK, jax.random.key(0), LONGER.layout, num_rows=LONGER.num_rows, width=3)


def fine_tuned(weights, campaign, **online):
    """The scorer of a campaign of the data, and the reference set of all its examples."""
    run, method = Run(DATA, np.empty(0, int), 0), tiny("mlp-seeds", **online)
    method.network = NETWORK
    [scorer] = method.customise(run, weights._asdict(), [campaign])
    campaign = LONGER.campaign(0).pick(np.arange(40))
    examples = campaign_examples(LONGER, campaign)
    return scorer, reference_set(examples, MAX_REFERENCE, LONGER.num_rows)


def direction_in(table, reference):
    no_rows, no_values = np.empty(0, np.int32), table[:0]
    return compiled_direction(LONGER.layout)(table, no_rows, no_values, reference)


@pytest.mark.slow
def test_scores_of_a_pool_use_the_direction_of_the_adapted_rows():
    """The log-odds that the network gives its users beside the reference set of all examples."""
    weights = general_weights()
    campaign = DATA.campaign(0).pick(np.arange(40))
    scorer, reference = fine_tuned(weights, campaign, online_learning_rate=0.05, online_epochs=3)
    pool = np.asarray(LONGER.user_rows[:])
    adapted, log_odds = scorer.adapted, scorer(DATA.user_rows)
    table = weights.table.at[adapted.rows].set(adapted.values, mode="drop")
    towards = direction_in(table, reference)
    np.testing.assert_allclose(adapted.network["direction"], towards, atol=1e-6)
    assert np.abs(towards - direction_in(weights.table, reference)).max() > 0.1

    inputs = jax.jit(LONGER.layout.inputs)(table, Ids(pool, scorer.campaign, reference))
    output = jax.jit(NETWORK.apply)(adapted.network, *inputs)
    np.testing.assert_allclose(log_odds, output.log_p - output.log_not_p, atol=1e-4)
    general = PoolScorer(NETWORK, LONGER.layout)(weights, None, scorer.campaign, pool)
    assert np.abs(log_odds - general).max() > 0.1


@pytest.mark.slow
def test_seed_aware_learns():
    """On campaigns never trained on, before fine-tuning and after."""
    data = dataset(tastes=2, campaigns=16)
    method = SeedAware().changed(
        width=8,
        num_experts=3,
        batch_size=64,
        campaigns_per_step=4,
        offline_epochs=5,
        offline_patience=None,
        outer_learning_rate=0.01,
        online_learning_rate=0.01,
    )
    new = np.arange(12, 16)
    campaigns = [data.campaign(c) for c in new]
    general = fit(data, method, campaigns=np.arange(12))

    # Campaigns' own fields say nothing about their tastes here: what is known, the seeds have told.
    longer, lengths = with_lengths(data)
    score = PoolScorer(method.network, longer.layout)
    weights = Weights(**general.state)
    strangers = [
        lambda users, c=c: score(weights, None, longer.campaign_rows[c], lengths.users(users))
        for c in new
    ]
    untuned, tuned = (
        [c.score for c in customise(general, data, campaigns, method=own)]
        for own in (method.changed(online_epochs=0), method)
    )
    assert aucs(data, new, untuned).mean() > max(0.65, aucs(data, new, strangers).mean() + 0.05)
    assert aucs(data, new, tuned).mean() > 0.65

    # Half of the 300 examples are the reference set of the others: 3 minibatches, not 5.
    steps = []
    once = method.changed(online_epochs=1, online_patience=None)
    watch = lambda step, _: steps.append(step)  # noqa: E731
    customise(general, data, campaigns[:1], method=once, watch=watch)
    assert steps == [0, 1, 2, 3]
