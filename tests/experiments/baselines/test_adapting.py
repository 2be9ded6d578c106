"""Other inner steps: the methods differ in what they say."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import dataset, tiny

import metaheac_jax as mh
from experiments.baselines import adapting
from experiments.baselines.adapting import (
    AdaptCampaign,
    AdaptHeads,
    LearnedRates,
)
from metaheac_jax.methods import (
    OFFICIAL,
    PAPER,
    Offline,
    Trained,
    configured,
    solved_head,
)
from metaheac_jax.methods.offline import campaign_sampler, untrained
from metaheac_jax.networks import MLP, MetaHeac
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient

CONFIG = PAPER.changed(
    {
        "width": 4,
        "num_experts": 2,
        "num_critics": 2,
        "batch_size": 16,
        "campaigns_per_step": 2,
        "reduction": "mean",
        "inner_learning_rate": 0.1,
        "offline_epochs": 1,
        "offline_patience": None,
        "online_epochs": 1,
        "online_patience": None,
    }
)


NETWORK = MLP((8, 4))  # the inner step is the same for every network


@pytest.fixture(scope="module")
def run():
    data = dataset(users=300, campaigns=6, per_campaign=40).lengthened()[0]
    return Offline(data, np.arange(6), seed=0)


@pytest.fixture
def drawn(run):
    """Parameters over the rows of a step, the step's batches, and its table rows."""
    weights = untrained(run, CONFIG, NETWORK)
    touched, *batch = campaign_sampler(run, CONFIG)(0)
    table = weights.table.at[touched].get(mode="fill", fill_value=0)
    return {"network": weights.network, "table": table}, batch, touched


def of_network(kind, network=NETWORK, **own):
    """A method of this class with another network."""
    config = type(kind.default)(**CONFIG.plain() | {"list_lengths": True})
    return type(kind.__name__, (kind,), {"network": network, **own})(config)


def gradient_of(run, **options):
    """The gradient of the program's own meta-step, with an inner step of these options."""
    loss = build_loss(NETWORK, run.dataset.layout, reduction="mean")
    return build_meta_gradient(loss, reduction="mean", select=select_rows, **options)


def equal(found, expected, atol=1e-7):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=atol), found, expected
    )


@pytest.mark.slow
def test_an_inner_step_on_campaign_rows_moves_these_rows_alone(run, drawn):
    """As an inner step on the table does whose rate is 0 on the other rows."""
    params, (support, query, own), touched = drawn
    dataset = run.dataset
    first = dataset.vocabulary.offsets[len(dataset.schema.user)]
    # The rates are those of one campaign's rows, so campaigns are compared one by one.
    total = jax.tree.map(jnp.zeros_like, params)
    for c in range(CONFIG.campaigns_per_step):
        one = jax.tree.map(lambda leaf, c=c: leaf[c : c + 1], (support, query, own))
        is_campaign = (touched[np.minimum(own[c], len(touched) - 1)] >= first) & (
            own[c] < len(touched)
        )
        rate = 0.1 * jnp.asarray(is_campaign, jnp.float32)[:, None]
        masked = gradient_of(
            run,
            inner_learning_rate={"network": 0.0, "table": rate},
            adapt={"network": False, "table": True},
        )
        total = jax.tree.map(jnp.add, total, jax.jit(masked)(params, *one)[0])
    expected = jax.tree.map(lambda leaf: leaf / CONFIG.campaigns_per_step, total)
    found, info = jax.jit(of_network(AdaptCampaign).gradient(run.dataset.layout))(
        params, support, query, own
    )
    equal(found, expected)
    plain, before = jax.jit(gradient_of(run, inner_steps=0, inner_learning_rate=0.1))(
        params, support, query, own
    )
    assert not np.allclose(info.query_loss, before.query_loss)
    assert not np.allclose(found["table"], plain["table"])


@pytest.mark.slow
def test_learned_rates_begin_at_alpha_and_are_learned(run, drawn):
    params, (support, query, own), _ = drawn
    logs = jax.tree.map(lambda _: jnp.log(0.1), {"network": params["network"], "table": 0})
    inside = {"inside": params["network"], "log_rates": logs}
    gradient = of_network(LearnedRates, steps=2).gradient(run.dataset.layout)
    found, _ = jax.jit(gradient)(params | {"network": inside}, support, query, own)
    expected, _ = jax.jit(gradient_of(run, inner_learning_rate=0.1, inner_steps=2))(
        params, support, query, own
    )
    equal(found["network"]["inside"], expected["network"])
    equal(found["table"], expected["table"])
    rates = np.stack(jax.tree.leaves(found["network"]["log_rates"]))
    assert (rates != 0).all()


@pytest.mark.slow
def test_an_inner_step_on_heads_leaves_experts_and_table(run):
    network = MetaHeac(2, 2, (4, 4), 4)
    weights = untrained(run, CONFIG, network)
    touched, *batch = campaign_sampler(run, CONFIG)(0)
    table = weights.table.at[touched].get(mode="fill", fill_value=0)
    params = {"network": weights.network, "table": table}
    parts = {part: 0.0 if part == "expert" else 0.1 for part in weights.network["params"]}
    assert parts["expert"] == 0
    expected = build_meta_gradient(
        build_loss(network, run.dataset.layout, reduction="mean"),
        reduction="mean",
        inner_learning_rate={"network": {"params": parts}, "table": 0.0},
        select=select_rows,
    )
    gradient = of_network(AdaptHeads, network).gradient(run.dataset.layout)
    found, slope = (jax.jit(g)(params, *batch)[0] for g in (gradient, expected))
    equal(found, slope)


def test_variants_have_the_rates_and_derivatives_of_their_names(monkeypatch):
    program = configured("program-step").config
    assert program.reduction == "mean"
    assert program.inner_learning_rate == OFFICIAL.inner_learning_rate
    asked = []

    def noted(_, *, first_order=False):
        asked.append(first_order)

    for module in (adapting, solved_head):
        monkeypatch.setattr(module, "solved_gradient", noted)
    monkeypatch.setattr(solved_head, "train_rows", lambda *_, **__: Trained({}))
    data = dataset(users=120, campaigns=4, per_campaign=40, pool=20)
    for name in ("solved-constant", "solved-head"):
        mh.fit(data, tiny(name, offline_epochs=1, offline_patience=None))
    assert asked == [True, False]
