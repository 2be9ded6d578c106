"""The solved head: what is solved on what, its gradient, what it learns, what a model is."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import aucs, dataset

from metaheac_jax.customising.score import joint_program
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.errors import Diverged
from metaheac_jax.methods import Online, SolvedHeadMethod, customise, fit
from metaheac_jax.methods.solved_head import SolvedHead, solve_head, solved_gradient
from metaheac_jax.model import initialise
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.sparse import full_lists

DATA = dataset(tastes=2, campaigns=16)
TRAIN, NEW = np.arange(12), np.arange(12, 16)
SIZES = {"width": 8, "batch_size": 64, "campaigns_per_step": 4, "offline_epochs": 5}
METHOD = SolvedHeadMethod().changed(
    **SIZES, offline_patience=None, outer_learning_rate=0.01, value_dropout=0.2
)


@pytest.fixture(scope="module")
def general():
    return fit(DATA, METHOD, campaigns=TRAIN)


@pytest.mark.slow
def test_it_learns_factors_on_which_few_seeds_tell_much(general):
    """From 60 examples of new campaigns: better than the general model, and than LR on them."""
    some = np.random.default_rng(0).permutation(300)[:60]
    campaigns = [DATA.campaign(c) for c in NEW]
    campaigns = [replace(c, users=c.users[some], labels=c.labels[some]) for c in campaigns]
    models = customise(general, DATA, campaigns)
    own = customise(fit(DATA, "lr", campaigns=TRAIN), DATA, campaigns)
    before = METHOD.customise(Online(DATA, 0), general.state, campaigns, general=True)
    solved, before, regression = (
        aucs(DATA, NEW, scorers).mean()
        for scorers in ([m.score for m in models], before, [m.score for m in own])
    )
    assert solved > max(before, regression) + 0.02


@pytest.fixture(scope="module")
def by_hand(general):
    """The head of campaign 13 on all its examples, and the log-odds of all users by it alone."""
    campaign, lengths = DATA.campaign(13), DATA.lengthened()[1]
    rows = jnp.asarray(lengths(DATA.user_rows[:]))
    fields = DATA.lengthened()[0].layout.users(general.state["table"], rows)
    offset, factors = SolvedHead().offset_and_factors(general.state["network"], fields)
    own, labels = campaign.users, campaign.labels.astype(np.float32)
    head = solve_head(factors[own], offset[own], labels, np.ones_like(labels), num_steps=20)
    return head, np.asarray(offset + factors @ head, float)


@pytest.mark.slow
def test_the_head_is_solved_on_all_examples_and_value_weights_around_it(general, by_hand):
    """Their penalty decides how far they go; rows and values are the model's adapted ones."""
    campaign, users, (head, by_head) = DATA.campaign(13), DATA.user_rows[:], by_hand
    [model] = customise(general, DATA, [campaign])
    assert not general.state["network"]["head"].any()
    assert set(model.scorer.own[0].network) == {"head"}
    np.testing.assert_allclose(model.scorer.own[0].network["head"][:-1], head[:-1], atol=1e-3)
    real = model.scorer.own[0].rows < len(general.state["table"])
    rows, values = model.scorer.own[0].rows[real], np.asarray(model.scorer.own[0].values)[real]
    table = np.asarray(general.state["table"])
    assert not table[:, -1].any()
    np.testing.assert_array_equal(values[:, :-1], table[rows][:, :-1])
    longer, lengths = DATA.lengthened()
    features, _ = full_lists(longer.layout, lengths(users), len(table))
    # Rows 7 to 36 are tokens, of which a user has up to four: four of one would be a full list.
    filled = np.where((np.arange(len(table)) >= 7) & (np.arange(len(table)) < 37), 4.0, 1.0)
    own = np.zeros(len(table))
    own[rows] = values[:, -1] / filled[rows]
    odds = by_head[campaign.users]
    expected, bias = fit_regression(features[campaign.users], campaign.labels, 100.0, offset=odds)
    np.testing.assert_allclose(own, expected, atol=1e-4)
    np.testing.assert_allclose(model.score(users), by_head + features @ own + bias, atol=1e-3)
    [stiff] = customise(general, DATA, [campaign], method=METHOD.changed(penalty=1e9))
    np.testing.assert_allclose(stiff.score(users), by_head, atol=3e-2)
    assert np.abs(model.score(users) - by_head).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("bytes_together", [1, 1 << 30])
def test_many_campaigns_are_scored_together_as_each_alone(general, bytes_together, monkeypatch):
    """With value weights and without, in one part and in several, beside models of other kinds."""
    monkeypatch.setattr("metaheac_jax.customising.score._TOGETHER_BYTES", bytes_together)
    models = customise(general, DATA, [DATA.campaign(c) for c in NEW])
    [other] = customise(fit(DATA, "lr", campaigns=TRAIN), DATA, [DATA.campaign(12)])
    online, campaign = Online(DATA, 0), DATA.campaign(12)
    [plain] = METHOD.customise(online, general.state, [campaign], general=True)
    plain = replace(models[0], scorer=plain, campaign=campaign)
    none = {"rows": np.empty(0, np.int32), "values": general.state["table"][:0]}
    adapted = models[1].scorer.own[0]._replace(**none)
    own = adapted, models[1].scorer.own[1]
    bare = replace(models[1], scorer=replace(models[1].scorer, own=own))
    every = [models[0], other, *models[1:], plain, bare]
    together = joint_program([model.scorer for model in every])(DATA.user_rows).T
    assert together.shape == (len(every), DATA.num_users)
    for model, scores in zip(every, together, strict=True):
        np.testing.assert_allclose(scores, model.score(DATA.user_rows), atol=1e-5)
    assert np.abs(together[2] - together[-1]).max() > 0.01


@pytest.mark.slow
def test_what_solved_heads_share_is_computed_once_for_all(general, monkeypatch):
    models = customise(general, DATA, [DATA.campaign(c) for c in NEW])
    monkeypatch.setattr("metaheac_jax.customising.score.network_function", None)
    assert np.isfinite(joint_program([model.scorer for model in models])(DATA.user_rows)).all()


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
        customise(broken, DATA, [DATA.campaign(13)])


@pytest.mark.slow
def test_a_campaign_of_seeds_alone_has_scores_of_usual_size(general):
    """No regression on its values, whose intercept would have no minimum."""
    campaign = DATA.campaign(13)
    seeds = campaign.labels == 1
    campaign = campaign.pick(seeds)
    [model] = customise(general, DATA, [campaign])
    assert np.abs(model.score(DATA.user_rows)).max() < 20
    assert not len(model.scorer.own[0].rows)
