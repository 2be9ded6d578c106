"""Customising: equal to whole-table Adam, alone or beside others; early stop."""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from linear_network import LogisticRegression
from toy import dataset

from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.data.batches import Batch, gather, generator
from metaheac_jax.errors import Diverged
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks import MLP
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.training.losses import build_loss

DATA = dataset()
LAYOUT, ROWS = DATA.layout, DATA.num_rows
PLAIN = Layout(LAYOUT.user_slots, (), LAYOUT.num_campaign_fields)  # no small fields
NETWORK = MLP(widths=(6, 6))
GENERAL = initialise(NETWORK, jax.random.key(0), LAYOUT, num_rows=ROWS, width=4)
REGRESSION = LogisticRegression()


def zero_regression(num_rows=ROWS):
    """Logistic regression with all weights zero."""
    return Weights({"params": {"bias": jnp.zeros(())}}, jnp.zeros((num_rows, 1)))


def campaign(c, count=None):
    of = DATA.stage1.of(c)
    examples = np.arange(of.start, of.stop)[:count]
    return gather(DATA, examples, DATA.campaign_rows[c], len(examples))


def whole(model, general=GENERAL):
    """The customised model as parameters and a whole table."""
    table, own = np.array(general.table), model.rows < ROWS
    table[model.rows[own]] = np.asarray(model.values)[own]
    return model.network, table


@pytest.fixture(scope="module", params=[LAYOUT, PLAIN], ids=["small fields", "none"])
def customise(request):
    return Customiser(NETWORK, request.param, batch_size=64)


@pytest.mark.parametrize("layout", [LAYOUT, PLAIN])
@pytest.mark.parametrize(
    ("network", "general"),
    [(REGRESSION, zero_regression()), pytest.param(NETWORK, GENERAL, marks=pytest.mark.slow)],
)
def test_equals_adam_on_the_whole_table(network, general, layout):
    """The oracle: fresh dense Adam over network and whole table, the same minibatches."""
    examples = campaign(2, 150)
    (model,) = Customiser(network, layout, batch_size=64)(general, [examples], seed=5, epochs=2)
    optimizer, gradient = optax.adam(1e-3), jax.grad(build_loss(network, PLAIN))

    @jax.jit
    def step(params, opt_state, batch):
        updates, opt_state = optimizer.update(gradient(params, batch), opt_state)
        return optax.apply_updates(params, updates), opt_state

    params = {"network": general.network, "table": general.table}
    opt_state, rng = optimizer.init(params), generator(5, 0)
    for _ in range(2):
        order = rng.permutation(150)
        for part in (order[:64], order[64:128], order[128:]):
            weight = (np.arange(64) < len(part)).astype(float)
            batch = examples.pick(np.resize(part, 64))._replace(weight=weight)
            params, opt_state = step(params, opt_state, batch)
    own, table = whole(model, general)
    np.testing.assert_allclose(table, params["table"], rtol=0, atol=3e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=3e-6), own, params["network"])
    assert np.abs(table - general.table).max() > 1e-3


def test_campaigns_do_not_leak_into_each_other(customise):
    """A campaign is what it is whether it has to wait for longer ones, or has none beside it."""
    together = customise(GENERAL, [campaign(0), campaign(1, 70), campaign(2, 130)], seed=1)
    others = customise(GENERAL, [campaign(3, 90), campaign(1, 70), campaign(4, 80)], seed=1)
    (alone,) = customise(GENERAL, [campaign(1, 70)], seed=1)
    a = whole(together[1])
    for b in (whole(others[1]), whole(alone)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), a, b)
    assert np.abs(whole(together[0])[1] - a[1]).max() > 1e-4


def test_no_campaigns_give_no_models():
    assert Customiser(NETWORK, LAYOUT)(GENERAL, []) == []


@pytest.mark.parametrize("count", [1, 3])  # one by one, and two at a time
def test_precision_is_the_callers_and_rates_do_not_mix(x64, count):
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), GENERAL)
    customise = Customiser(NETWORK, LAYOUT)
    examples = [campaign(c, 40) for c in range(count)]
    fast, slow = (customise(start, examples, learning_rate=rate) for rate in (1e-3, 1e-9))
    for one, other in zip(fast, slow, strict=True):
        assert one.values.dtype == jnp.float64
        own = one.rows < ROWS
        moved = np.abs(one.values - start.table[one.rows])[own]
        hardly = np.abs(other.values - start.table[other.rows])[own]
        assert 0 < hardly.max() < 1e-5 < moved.max()


@contextmanager
def compiling():
    """The programs compiled within."""
    compiled = []

    def listen(event, *_, **__):
        if "backend_compile" in event:
            compiled.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_another_rate_compiles_nothing():
    customise = Customiser(NETWORK, LAYOUT)
    for rate in (1e-3, 1e-2):
        with compiling() as compiled:
            customise(GENERAL, [campaign(0, 41)], learning_rate=rate, patience=1)
        assert (rate == 1e-3) == bool(compiled)


def test_campaigns_of_all_sizes_compile_once():
    """What a campaign touches is seen before the first, and a smaller one takes what is there."""
    rows = 20_000
    general = zero_regression(rows)

    def examples(count, touched):
        user = np.resize(np.arange(touched), (count, PLAIN.num_slots)).astype(np.int32)
        label = (np.arange(count) % 2).astype(np.float32)
        return Batch(Ids(user, np.zeros(2, np.int32)), label, np.ones(count))

    def programs(*campaigns):
        customise = Customiser(REGRESSION, PLAIN)
        with compiling() as compiled:
            customise(general, campaigns)
        with compiling() as later:
            customise(general, [examples(9, 30)])
        assert not later
        return len(compiled)

    programs(examples(4000, rows))
    varied, alike = examples(500, 1500), examples(600, 10)  # the larger comes first
    programs(varied)  # compiles what all calls share
    assert programs(alike, alike, varied) == programs(varied, varied, varied) > 0


def test_a_small_campaign_has_no_more_rows_than_it_needs_beside_a_large_one(monkeypatch):
    """Without padding to the size of the largest, hundreds of models fit into memory."""
    monkeypatch.setattr("metaheac_jax.customising.sizes._MIN_SIZE", 4)
    customiser, examples = Customiser(REGRESSION, PLAIN), [campaign(2), campaign(3, 2)]
    alone = [Customiser(REGRESSION, PLAIN)(zero_regression(), [batch]) for batch in examples]
    together = customiser(zero_regression(), examples)
    for [one], own, batch in zip(alone, together, examples, strict=True):
        ids = np.concatenate([np.ravel(of) for of in jax.tree.leaves(batch.ids)])
        touched = len(np.unique(ids[ids < ROWS]))
        assert (own.rows < ROWS).sum() == touched <= len(own.rows) < 2 * touched
        np.testing.assert_array_equal(own.rows, one.rows)
        np.testing.assert_allclose(own.values, one.values, atol=1e-7)


def test_the_largest_campaigns_come_first_and_models_keep_their_order():
    customise = Customiser(REGRESSION, LAYOUT, batch_size=64)
    told, sizes = [], (90, 150, 70)
    examples = [campaign(c, size) for c, size in enumerate(sizes)]
    progress = lambda *own: told.append(own)  # noqa: E731
    models = customise(zero_regression(), examples, epochs=1, progress=progress)
    assert told[-1] == ("customise", 3, 3)
    for model, batch in zip(models, examples, strict=True):
        touched = np.union1d(batch.ids.user, batch.ids.campaign)
        np.testing.assert_array_equal(model.rows[model.rows < ROWS], touched[touched < ROWS])


def test_a_general_model_that_adapting_harms_is_kept():
    """With examples of random labels and a wild rate, no epoch beats the start."""
    general = zero_regression()
    examples = campaign(0)
    label = np.random.default_rng(0).permutation(np.arange(300) % 2).astype(np.float32)
    customise = partial(Customiser(REGRESSION, LAYOUT, batch_size=64), learning_rate=30.0)
    (model,) = customise(general, [examples._replace(label=label)], epochs=3, patience=3)
    np.testing.assert_array_equal(model.values, 0)


def test_a_campaign_with_a_single_seed_keeps_the_general_model():
    general, customise = zero_regression(), Customiser(REGRESSION, LAYOUT, batch_size=64)
    label = (np.arange(40) == 3).astype(np.float32)
    examples = campaign(0, 40)._replace(label=label)
    (model,) = customise(general, [examples], epochs=2, patience=1)
    np.testing.assert_array_equal(model.values, 0)
    jax.tree.map(np.testing.assert_array_equal, model.network, general.network)


# Weights that are no numbers --------------------------------------------------------------------


@pytest.mark.parametrize("patience", [None, 2])
def test_weights_that_are_not_finite_are_never_the_general_model(patience):
    customise = Customiser(NETWORK, LAYOUT, batch_size=64)
    examples = [campaign(0, 130), campaign(1, 130)]
    options = {"epochs": 3, "patience": patience, "names": ["campaign 100", "campaign 110"]}
    assert len(customise(GENERAL, examples, **options)) == 2
    count = 2 if patience else 3  # minibatches of an epoch
    said = (
        f"campaign 1[01]0: the adapted weights are not finite after step {count}; lower the online"
    )
    with pytest.raises(Diverged, match=said) as caught:
        customise(GENERAL, examples, learning_rate=1e38, **options)
    assert "\n" not in str(caught.value)


def test_the_best_finite_model_of_an_earlier_epoch_is_kept(monkeypatch):
    """From the third epoch on, weights are NaN."""
    general, customise = zero_regression(), Customiser(REGRESSION, LAYOUT, batch_size=64)
    options = {"learning_rate": 0.05, "patience": 4}
    (two,) = customise(general, [campaign(0)], epochs=2, **options)
    assert np.abs(two.values).max() > 0
    step, count = customise._steps.adapt, []

    def broken(*arguments):
        count.append(1)
        *rest, rate = arguments
        return step(*rest, rate if len(count) <= 10 else np.nan)  # 5 an epoch

    monkeypatch.setattr(customise._steps, "adapt", broken)
    (kept,) = customise(general, [campaign(0)], epochs=9, **options)
    np.testing.assert_array_equal(kept.values, two.values)


def test_the_pad_id_and_the_last_row_are_no_errors():
    examples = campaign(0, 20)
    examples.ids.user[0] = ROWS
    examples.ids.user[1] = ROWS - 1
    (model,) = Customiser(NETWORK, LAYOUT)(GENERAL, [examples], epochs=1)
    assert np.isfinite(model.values).all()
