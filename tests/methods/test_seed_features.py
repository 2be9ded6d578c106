"""The seed-aware method: reference sets apart from examples, directions in pools; it learns."""

from dataclasses import replace

import jax
import numpy as np
import pytest
from toy import UNTRAINED, aucs, dataset

from metaheac_jax.customise.score import PoolScorer
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.data.reference_sets import reference_set
from metaheac_jax.methods.fine_tuning import metaheac_network
from metaheac_jax.methods.seed_features import (
    MAX_REFERENCE,
    compiled_direction,
    fine_tune_aware,
    seed_aware,
    seed_aware_alpha_zero,
    seed_aware_mlp,
)
from metaheac_jax.methods.stages import Run
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.networks.seed_features import SeedNetwork
from metaheac_jax.settings import OFFICIAL
from metaheac_jax.table.layout import Ids

DATA = dataset()
LONGER, _ = with_lengths(DATA)
NETWORK = SeedNetwork(MLP(widths=(5, 5)))


def general_weights():
    return initialise(NETWORK, jax.random.key(0), LONGER.layout, num_rows=LONGER.num_rows, width=3)


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


def fine_tuned(weights, campaign, **online):
    """The scorer of a campaign of the data, and the reference set of all its examples."""
    run = Run(LONGER, np.empty(0, int), replace(UNTRAINED, **online), 0)
    [scorer] = fine_tune_aware(run, NETWORK, weights, [campaign])
    examples = campaign_examples(LONGER, campaign)
    return scorer, reference_set(examples, MAX_REFERENCE, LONGER.num_rows)


@pytest.mark.slow
def test_a_campaign_without_steps_has_the_general_model_and_its_own_direction():
    general = seed_aware(UNTRAINED).fit(DATA)
    campaigns = [DATA.campaign(c) for c in range(2)]
    for steps in (0, 1):
        method = seed_aware(UNTRAINED).with_settings(online_epochs=steps)
        models = method.customise(general, DATA, campaigns)
        assert [model.is_general for model in models] == [steps == 0] * 2
        assert all(np.abs(model.adapted.network["direction"]).max() > 0 for model in models)


def test_examples_of_campaigns_are_read_when_they_are_needed(monkeypatch):
    """Those of hundreds of campaigns would not fit in memory."""
    told = []
    read = lambda *args: told.append("read") or campaign_examples(*args)  # noqa: E731
    monkeypatch.setattr("metaheac_jax.data.batches.campaign_examples", read)
    begin = lambda *args, **options: told.append("begin") or [*args[3]]  # noqa: E731
    monkeypatch.setattr("metaheac_jax.methods.seed_features.adapt_weights", begin)
    campaigns = [LONGER.campaign(c) for c in range(3)]
    run = Run(LONGER, np.empty(0, int), UNTRAINED, 0)
    examples = fine_tune_aware(run, NETWORK, general_weights(), campaigns)
    assert told == ["begin", *["read"] * 3]
    assert all(len(examples[c].label) < len(LONGER.campaign(c).labels) for c in range(3))


def direction_in(table, reference):
    no_rows, no_values = np.empty(0, np.int32), table[:0]
    return compiled_direction(LONGER.layout)(table, no_rows, no_values, reference)


@pytest.mark.slow
def test_scores_of_a_pool_use_the_direction_of_the_adapted_rows():
    """The log-odds that the network gives its users beside the reference set of all examples."""
    weights = general_weights()
    campaign = LONGER.campaign(0).pick(np.arange(40))
    scorer, reference = fine_tuned(weights, campaign, online_learning_rate=0.05, online_epochs=3)
    pool = np.asarray(LONGER.user_rows[:])
    adapted, log_odds = scorer.adapted, scorer(pool)
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
def test_a_single_seed_has_a_direction_in_its_pool():
    """While adapting, it is fitted and no seed is left to compare with."""
    weights, campaign = general_weights(), LONGER.campaign(0)
    one_seed = (np.arange(len(campaign.labels)) == 3).astype(np.int8)
    scorer, reference = fine_tuned(weights, replace(campaign, labels=one_seed), online_epochs=0)
    towards = direction_in(weights.table, reference)
    assert np.abs(towards).max() > 0.1
    np.testing.assert_allclose(scorer.adapted.network["direction"], towards, atol=1e-6)


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
