"""The solved head: what is solved on what, its gradient, what it learns, what a model is."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset

from metaheac_jax.customise.joint import score_jointly
from metaheac_jax.data.list_lengths import with_lengths
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import method_named
from metaheac_jax.methods.linear import fit_regression
from metaheac_jax.methods.solved_heads import solved_gradient, solved_head
from metaheac_jax.model import initialise
from metaheac_jax.networks.base import FirstLayer
from metaheac_jax.networks.solved_head import SolvedHead
from metaheac_jax.settings import OFFICIAL, PAPER
from metaheac_jax.table.sparse import full_lists
from metaheac_jax.training.newton import solve_logistic

DATA = dataset(tastes=2, campaigns=16)
TRAIN, NEW = np.arange(12), np.arange(12, 16)
METHOD = solved_head(replace(PAPER, width=8, batch_size=64, campaigns_per_step=4)).with_settings(
    offline_epochs=5, offline_patience=None, outer_learning_rate=0.01, value_dropout=0.2
)
HEADS = METHOD.with_settings(online_adapts="heads")


@pytest.fixture(scope="module")
def general():
    return METHOD.fit(DATA, campaigns=TRAIN)


@pytest.mark.slow
def test_it_learns_factors_on_which_few_seeds_tell_much(general):
    """From 60 examples of new campaigns: better than the general model, and than LR on them."""
    some = np.random.default_rng(0).permutation(300)[:60]
    campaigns = [DATA.campaign(c) for c in NEW]
    campaigns = [replace(c, users=c.users[some], labels=c.labels[some]) for c in campaigns]
    models = METHOD.customise(general, DATA, campaigns)
    lr = method_named("lr")
    own = lr.customise(lr.fit(DATA, campaigns=TRAIN), DATA, campaigns)
    zero = [
        replace(m, scorer=replace(m.scorer, adapted=m.adapted._replace(network={}))) for m in models
    ]
    solved, before, regression = (
        aucs(DATA, NEW, [model.score for model in some]).mean() for some in (models, zero, own)
    )
    assert solved > max(before, regression) + 0.02


@pytest.mark.slow
def test_where_only_heads_are_adapted_campaigns_share_all_else(general):
    """No table rows, and few numbers."""
    campaigns = [DATA.campaign(c) for c in NEW]
    models = HEADS.customise(general, DATA, campaigns)
    assert [len(model.adapted.rows) for model in models] == [0] * 4
    assert [set(model.adapted.network) for model in models] == [{"head"}] * 4
    assert models[0].adapted.network["head"].shape == (41,)
    assert not general.state["network"]["head"].any()
    together = score_jointly([model.scorer for model in models])(DATA.user_rows)
    for model, scores in zip(models, together, strict=True):
        np.testing.assert_allclose(scores, model.score(DATA.user_rows), atol=1e-5)
    assert np.abs(together[0] - together[1]).max() > 0.1
    alone = HEADS.customise(general, DATA, campaigns[2:3])[0]
    np.testing.assert_allclose(alone.score(DATA.user_rows), together[2], atol=1e-5)


@pytest.mark.slow
def test_the_head_is_solved_on_all_examples_of_a_campaign(general):
    campaign = DATA.campaign(13)
    [model] = HEADS.customise(general, DATA, [campaign])
    scorer, params = model.scorer, general.state["network"]
    users = DATA.user_rows[campaign.users]
    rows = jnp.asarray(scorer.lengths.users(users))
    first = SolvedHead().first_layer(
        params, scorer.pool_scorer.layout.users(general.state["table"], rows)
    )
    assert isinstance(first, FirstLayer)
    factors, offset = first.sums[:, 1:], first.sums[:, 0]
    labels = campaign.labels.astype(np.float32)
    head = solve_logistic(factors, offset, labels, np.ones_like(labels), num_steps=20)
    np.testing.assert_allclose(model.adapted.network["head"], head, atol=1e-3)
    np.testing.assert_allclose(model.score(users), offset + factors @ head, atol=1e-3)


@pytest.mark.slow
def test_value_weights_are_a_regression_around_the_head(general):
    """Its penalty decides how far they go; rows and values are the model's adapted ones."""
    campaign, users = DATA.campaign(13), DATA.user_rows
    [head] = HEADS.customise(general, DATA, [campaign])
    [model] = METHOD.customise(general, DATA, [campaign])
    real = model.adapted.rows < len(general.state["table"])
    rows, values = model.adapted.rows[real], np.asarray(model.adapted.values)[real]
    table = np.asarray(general.state["table"])
    assert not table[:, -1].any()
    np.testing.assert_array_equal(values[:, :-1], table[rows][:, :-1])
    lengths = model.scorer.lengths
    features, _ = full_lists(with_lengths(DATA)[0].layout, lengths.users(users), len(table))
    # Rows 7 to 36 are tokens, of which a user has up to four: four of one would be a full list.
    filled = np.where((np.arange(len(table)) >= 7) & (np.arange(len(table)) < 37), 4.0, 1.0)
    own = np.zeros(len(table))
    own[rows] = values[:, -1] / filled[rows]
    odds = head.score(users[campaign.users])
    expected, bias = fit_regression(features[campaign.users], campaign.labels, 100.0, offset=odds)
    np.testing.assert_allclose(own, expected, atol=1e-5)
    np.testing.assert_allclose(
        model.score(users), head.score(users) + features @ own + bias, atol=1e-4
    )
    [stiff] = METHOD.with_settings(penalty=1e9).customise(general, DATA, [campaign])
    np.testing.assert_allclose(stiff.score(users), head.score(users), atol=3e-2)
    assert np.abs(model.score(users) - head.score(users)).max() > 0.1


def test_what_is_solved_on_is_no_query_example():
    assert not OFFICIAL.disjoint
    assert solved_head(OFFICIAL).settings.disjoint


def toy_gradient(*, first_order):
    """The gradient, its parameters, and a batch of two campaigns; call it in float64."""
    sampler = CampaignSampler(DATA, TRAIN, seed=0, campaigns_per_step=2, batch_size=40)
    rows, support, query, own = sampler(0)
    weights = initialise(
        SolvedHead(), jax.random.key(0), DATA.layout, num_rows=DATA.num_rows, width=3
    )
    table = weights.table.at[rows].get(mode="fill", fill_value=0)
    params = {"network": weights.network, "table": table}
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)
    gradient = solved_gradient(DATA.layout, first_order=first_order)
    return jax.jit(lambda p: gradient(p, support, query, own)), params


@pytest.mark.slow
def test_the_gradient_is_that_of_the_query_loss_through_the_solution():
    """Against finite differences along a random direction, in float64."""
    with jax.enable_x64(True):
        gradient, params = toy_gradient(first_order=False)
        keys = iter(jax.random.split(jax.random.key(1), 50))
        direction = jax.tree.map(lambda leaf: jax.random.normal(next(keys), leaf.shape), params)
        along = lambda t: jax.tree.map(lambda p, d: p + t * d, params, direction)  # noqa: E731
        direction["table"] = direction["table"].at[:, -1].set(0)  # the value weights are constants
        found, _ = gradient(params)
        assert not found["table"][:, -1].any()
        slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), found, direction)))
        expected = (gradient(along(1e-5))[1].loss - gradient(along(-1e-5))[1].loss) / 2e-5
        np.testing.assert_allclose(slope, expected, rtol=3e-4)
        constant, _ = toy_gradient(first_order=True)
        other, info = constant(params)
        assert float(info.loss) == float(gradient(params)[1].loss)
        kernel = lambda g: g["network"]["tower"]["params"]["linear_kernel"]  # noqa: E731
        assert np.abs(kernel(found) - kernel(other)).max() > 1e-3 * np.abs(kernel(found)).max()


@pytest.mark.slow
def test_a_head_that_is_not_finite_is_named(general):
    broken = replace(general, state={**general.state, "table": general.state["table"] * np.nan})
    with pytest.raises(Diverged, match="campaign 230: the adapted weights are not finite"):
        METHOD.customise(broken, DATA, [DATA.campaign(13)])


@pytest.mark.slow
def test_wrong_examples_are_refused(general):
    campaign = replace(DATA.campaign(13), labels=np.full(300, 2))
    with pytest.raises(InputError, match="a label is neither 1"):
        METHOD.customise(general, DATA, [campaign])


@pytest.mark.slow
def test_a_campaign_of_seeds_alone_has_scores_of_usual_size(general):
    """No regression on its values, whose intercept would have no minimum."""
    campaign = DATA.campaign(13)
    seeds = campaign.labels == 1
    campaign = campaign.pick(seeds)
    [model] = METHOD.customise(general, DATA, [campaign])
    assert np.abs(model.score(DATA.user_rows)).max() < 20
    assert not len(model.adapted.rows)


def test_one_column_leaves_none_for_the_tower():
    with pytest.raises(InputError, match="width: expected 2 or more"):
        METHOD.with_settings(width=1).fit(DATA, campaigns=TRAIN)
