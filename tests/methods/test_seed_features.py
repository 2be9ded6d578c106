"""The seed-aware method: reference sets apart from examples, directions in pools; it learns."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import aucs, dataset

from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.customise.score import PoolScorer
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.data.reference_sets import reference_set
from metaheac_jax.methods.fine_tuning import metaheac_network
from metaheac_jax.methods.seed_features import (
    compiled_direction,
    seed_aware,
    seed_aware_alpha_zero,
    seed_aware_mlp,
)
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.networks.seed_features import SeedNetwork
from metaheac_jax.settings import OFFICIAL
from metaheac_jax.table.layout import Ids


def test_no_query_example_is_in_its_own_reference_set():
    """Whatever the settings: the official ones let support and query share examples."""
    assert not OFFICIAL.disjoint
    assert seed_aware(OFFICIAL).settings.disjoint


def test_the_controls_take_no_inner_step():
    """Whatever the rate of the settings."""
    settings = replace(OFFICIAL, inner_learning_rate=0.3)
    assert seed_aware(settings).settings.inner_learning_rate > 0
    for control in (seed_aware_alpha_zero, seed_aware_mlp):
        assert control(settings).settings.inner_learning_rate == 0


@pytest.mark.slow
def test_scores_of_a_pool_use_the_direction_of_the_adapted_rows():
    """The odds that the network gives its users beside the same reference set."""
    data = dataset()
    layout, pool = data.layout, data.user_rows
    network = SeedNetwork(MLP(widths=(5, 5)))
    weights = initialise(network, jax.random.key(0), layout, num_rows=data.num_rows, width=3)
    examples = campaign_examples(data, data.campaign(0)).pick(np.arange(40))
    reference = reference_set(examples, 16, data.num_rows)
    referring = examples._replace(ids=examples.ids._replace(reference=reference))
    (model,) = Customiser(network, layout)(weights, [referring], learning_rate=0.05, epochs=3)
    assert not model.network["direction"].any()
    towards = compiled_direction(layout)(weights.table, model.rows, model.values, reference)
    directed = model._replace(network=model.network | {"direction": towards})
    score = PoolScorer(network, layout)
    odds = score(weights, directed, data.campaign_rows[0], pool)

    table = weights.table.at[model.rows].set(model.values, mode="drop")
    inputs = jax.jit(layout.inputs)(table, Ids(pool, data.campaign_rows[0], reference))
    output = jax.jit(network.apply)(model.network, *inputs)
    np.testing.assert_allclose(odds, output.log_p - output.log_not_p, atol=1e-4)
    general = score(weights, None, data.campaign_rows[0], pool)
    assert np.abs(odds - general).max() > 0.1


@pytest.mark.long
def test_seed_aware_learns():
    """On campaigns never trained on, before fine-tuning and after."""
    data = dataset(tastes=2, campaigns=16)
    method = seed_aware().with_settings(
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
    general = method.fit(data, campaigns=np.arange(12))

    # Campaigns' own fields say nothing about their tastes here: what is known, the seeds have told.
    longer, lengths = with_lengths(data)
    score = PoolScorer(SeedNetwork(metaheac_network(method.settings)), longer.layout)
    weights = Weights(**general.state)
    strangers = [
        lambda users, c=c: score(weights, None, longer.campaign_rows[c], lengths.users(users))
        for c in new
    ]
    untuned, tuned = (
        [c.score for c in m.customise(general, data, campaigns)]
        for m in (method.with_settings(online_epochs=0), method)
    )
    assert aucs(data, new, untuned).mean() > max(0.65, aucs(data, new, strangers).mean() + 0.05)
    assert aucs(data, new, tuned).mean() > 0.65

    seen = []
    watch = lambda step, now: seen.append((step, now()))  # noqa: E731
    method.customise(general, data, campaigns[:1], watch=watch)
    assert [step for step, _ in seen] == [*range(len(seen))]
    scores = [model(data.user_rows[:50]) for _, (model,) in seen]
    np.testing.assert_allclose(scores[0], untuned[0](data.user_rows[:50]), rtol=1e-5)
    assert np.abs(scores[-1] - scores[0]).max() > 0.1

    # Half of the 300 examples are the reference set of the others: 3 minibatches, not 5.
    steps = []
    once = method.with_settings(online_epochs=1, online_patience=None)
    once.customise(general, data, campaigns[:1], watch=lambda step, _: steps.append(step))
    assert steps == [0, 1, 2, 3]
