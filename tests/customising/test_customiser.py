"""Customising: equal to whole-table Adam, alone or together; early stop; what is refused."""

from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from linear_network import LogisticRegression
from toy import dataset, pool

from metaheac_jax.customising import customiser as module
from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.customising.score import PoolScorer
from metaheac_jax.data.batches import Batch, gather, generator
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.model import Weights, initialise
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.progress import silent
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


def whole(model):
    """The customised model as parameters and a whole table."""
    return model.network, np.asarray(GENERAL.table.at[model.rows].set(model.values, mode="drop"))


@pytest.fixture(scope="module", params=[1, 3])
def customise(request):
    layout = LAYOUT if request.param == 3 else PLAIN
    return Customiser(NETWORK, layout, batch_size=64, campaigns_at_once=request.param)


@pytest.mark.slow
def test_equals_adam_on_the_whole_table(customise):
    """The oracle: fresh dense Adam over network and whole table, the same minibatches."""
    examples = campaign(2, 150)
    (model,) = customise(GENERAL, [examples], seed=5, epochs=2)
    optimizer, step = optax.adam(1e-3), jax.jit(jax.grad(build_loss(NETWORK, PLAIN)))
    params = {"network": GENERAL.network, "table": GENERAL.table}
    opt_state, rng = optimizer.init(params), generator(5, 0)
    for _ in range(2):
        order = rng.permutation(150)
        for part in (order[:64], order[64:128], order[128:]):
            updates, opt_state = optimizer.update(step(params, examples.pick(part)), opt_state)
            params = optax.apply_updates(params, updates)
    network, table = whole(model)
    np.testing.assert_allclose(table, params["table"], rtol=0, atol=3e-6)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=3e-6), network, params["network"])
    assert np.abs(table - GENERAL.table).max() > 1e-3


def test_campaigns_do_not_leak_into_each_other(customise):
    """A campaign is what it is whether it has to wait for longer ones, or has none beside it."""
    together = customise(GENERAL, [campaign(0), campaign(1, 70), campaign(2, 130)], seed=1)
    others = customise(GENERAL, [campaign(3, 90), campaign(1, 70), campaign(4, 80)], seed=1)
    (alone,) = customise(GENERAL, [campaign(1, 70)], seed=1)
    a = whole(together[1])
    for b in (whole(others[1]), whole(alone)):
        jax.tree.map(partial(np.testing.assert_allclose, rtol=0, atol=1e-6), a, b)
    assert np.abs(whole(together[0])[1] - a[1]).max() > 1e-4


def test_no_campaigns_give_no_models(customise):
    assert customise(GENERAL, []) == []


def test_names_may_be_an_array(customise):
    examples = [campaign(0, 40), campaign(1, 40)]
    lists = customise(GENERAL, examples, names=["a", "b"])
    arrays = customise(GENERAL, examples, names=np.array(["a", "b"]))
    jax.tree.map(np.testing.assert_array_equal, arrays, lists)


def test_the_pool_cannot_change_a_model():
    """Rows that a campaign's examples do not touch keep their general values."""
    examples = campaign(0, 40)
    (model,) = Customiser(NETWORK, LAYOUT)(GENERAL, [examples])
    untouched = np.setdiff1d(np.arange(ROWS), np.append(examples.ids.user, examples.ids.campaign))
    assert len(untouched)
    np.testing.assert_array_equal(whole(model)[1][untouched], GENERAL.table[untouched])


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
        customise = Customiser(REGRESSION, PLAIN, campaigns_at_once=2)
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
    monkeypatch.setattr("metaheac_jax.customising.minibatches._MIN_SIZE", 4)
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
    groups = []

    def adapt(group):
        groups.append(group)
        return [f"model {c}" for c in group]

    models = module.adapt_groups(
        adapt, [campaign(0, 90), campaign(1, 150), campaign(2, 70)],
        group_size=2, in_turn=True, progress=silent,
    )  # fmt: skip
    assert groups == [[1, 0], [2]]
    assert models == ["model 0", "model 1", "model 2"]


def test_an_error_in_one_campaign_reaches_the_caller(monkeypatch):
    def failing(label, *rest):
        if len(label) == 39:
            raise ArithmeticError("in a thread")
        return hold_out(label, *rest)

    hold_out = module.hold_out
    monkeypatch.setattr(module, "hold_out", failing)
    with pytest.raises(ArithmeticError, match="in a thread"):
        Customiser(NETWORK, LAYOUT)(GENERAL, [campaign(c, 40 - c) for c in range(3)])


def test_stops_when_the_held_out_loss_stops_falling():
    general = zero_regression()
    # A rate so high that it overshoots soon.
    customise = partial(Customiser(REGRESSION, LAYOUT, batch_size=64), learning_rate=0.3)
    steps = []
    (stopped,) = customise(
        general, [campaign(0)], epochs=200, patience=2, watch=lambda step, _: steps.append(step)
    )
    # Without the tenth that is held out, 270 examples are 5 minibatches.
    epochs, more = divmod(len(steps) - 1, 5)
    assert more == 0
    assert 2 < epochs < 200
    score = PoolScorer(REGRESSION, LAYOUT)

    def pool_loss(model):
        users, labels = pool(DATA, 0)
        odds = score(general, model, DATA.campaign_rows[0], users).astype(float)
        return np.mean(np.logaddexp(0, odds) - labels * odds)

    (through,) = customise(general, [campaign(0)], epochs=200)
    assert pool_loss(stopped) < pool_loss(through)
    assert pool_loss(stopped) < pool_loss(None)


def test_a_general_model_that_adapting_harms_is_kept():
    """With examples of random labels and a wild rate, no epoch beats the start."""
    general = zero_regression()
    examples = campaign(0)
    label = np.random.default_rng(0).permutation(np.arange(300) % 2).astype(np.float32)
    customise = partial(Customiser(REGRESSION, LAYOUT, batch_size=64), learning_rate=30.0)
    (model,) = customise(general, [examples._replace(label=label)], epochs=3, patience=3)
    np.testing.assert_array_equal(model.values, 0)


def test_a_campaign_with_a_single_seed_keeps_the_general_model(customise):
    label = (np.arange(40) == 3).astype(np.float32)
    examples = campaign(0, 40)._replace(label=label)
    (model,) = customise(GENERAL, [examples], epochs=2, patience=1)
    network, table = whole(model)
    np.testing.assert_array_equal(table, GENERAL.table)
    jax.tree.map(np.testing.assert_array_equal, network, GENERAL.network)


# Weights that are no numbers --------------------------------------------------------------------


@pytest.mark.parametrize("patience", [None, 2])
@pytest.mark.parametrize("together", [1, 3])
def test_weights_that_are_not_finite_are_never_the_general_model(together, patience):
    customise = Customiser(NETWORK, LAYOUT, batch_size=64, campaigns_at_once=together)
    examples = [campaign(0, 130), campaign(1, 130)]
    options = {"epochs": 3, "patience": patience, "names": ["campaign 100", "campaign 110"]}
    assert len(customise(GENERAL, examples, **options)) == 2
    said = r"campaign 1[01]0: the adapted weights are not finite after step [2-6]; lower the online"
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

    def broken(state, rows, batch, rate):
        count.append(1)
        return step(state, rows, batch, rate if len(count) <= 10 else np.nan)  # 5 an epoch

    monkeypatch.setattr(customise, "_steps", customise._steps._replace(adapt=broken))
    (kept,) = customise(general, [campaign(0)], epochs=9, **options)
    np.testing.assert_array_equal(kept.values, two.values)


def test_the_first_step_after_which_weights_are_not_finite_is_named(monkeypatch):
    customise = Customiser(REGRESSION, LAYOUT, batch_size=64)
    step, count = customise._steps.adapt, []

    def broken(state, rows, batch, rate):
        count.append(1)
        return step(state, rows, batch, rate if len(count) <= 7 else np.nan)  # 5 an epoch

    monkeypatch.setattr(customise, "_steps", customise._steps._replace(adapt=broken))
    with pytest.raises(Diverged, match="not finite after step 10; lower the online"):
        customise(zero_regression(), [campaign(0)], epochs=4, learning_rate=0.05)
    assert len(count) == 20


# What is refused --------------------------------------------------------------------------------

REFUSING = Customiser(NETWORK, LAYOUT)  # it never gets as far as a step here


def refusal(examples, *before):
    with pytest.raises(InputError) as refused:
        REFUSING(GENERAL, [*before, examples])
    message = str(refused.value)
    assert "\n" not in message
    assert message.startswith(("users: ", f"campaign {len(before)} of {len(before) + 1}: "))
    return message


def with_ids(examples, **ids):
    return examples._replace(ids=examples.ids._replace(**ids))


OUTSIDE = st.integers(-(2**31), -1) | st.integers(ROWS + 1, 2**31 - 1)


@given(OUTSIDE, st.integers(0, 19), st.integers(0, 5))
def test_users_ids_outside_the_table_are_refused(wrong, user, slot):
    examples = campaign(0, 20)
    examples.ids.user[user, slot] = wrong
    expected = f"the ids include {wrong}, expected 0 to {ROWS - 1}, or {ROWS} to pad"
    assert expected in refusal(examples, campaign(1, 20))


def damaged(**damage):
    """Examples in which a column is replaced by a function of it."""
    examples = campaign(0, 20)
    columns = {"user": examples.ids.user, "campaign": examples.ids.campaign}
    columns |= {"reference": np.zeros((2, 3, 6), np.int32), "label": examples.label}
    new = {name: change(columns[name]) for name, change in damage.items()}
    label = new.pop("label", examples.label)
    return with_ids(examples, **new)._replace(label=label)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        *(({"campaign": lambda a, n=n: a * 0 + n}, f"include {n}") for n in (-1, ROWS + 1)),
        *(({"reference": lambda a, n=n: a + n}, f"include {n}") for n in (-1, ROWS + 1)),
        *(
            ({"user": lambda a, kind=kind: a.astype(kind)}, "whole numbers")
            for kind in (float, str)
        ),
        *(({"campaign": lambda a, k=k: a.astype(k)}, "whole numbers") for k in (bool, str)),
        *(
            ({"label": lambda a, n=n: np.append(a[:-1], n)}, "a label is neither")
            for n in (2, -1, 0.5, np.nan, np.inf)
        ),
        ({"label": lambda a: np.full(20, "?")}, "label"),
        ({"label": lambda a: a[:7]}, "20 users, 7 labels and 20 weights"),
        ({"user": lambda a: a[:, :5]}, "ids of shape (20, 5), expected 6 slots per user"),
        ({"campaign": lambda a: a[:1]}, "campaign ids of shape (1,), expected 2 fields"),
        (
            {"campaign": lambda a: np.zeros((20, 2), np.int32)},
            "of shape (20, 2), expected 2 fields",
        ),
    ],
)
def test_wrong_examples_are_refused(damage, said):
    assert said in refusal(damaged(**damage))


def test_a_campaign_without_examples_is_refused():
    assert "no examples; give it seeds and non-seeds" in refusal(campaign(0, 0), campaign(1, 20))


@pytest.mark.parametrize(
    ("options", "call"),
    [
        ({"batch_size": 0}, {}),
        ({"campaigns_at_once": 0}, {}),
        ({}, {"epochs": -1}),
        ({}, {"patience": 0}),
    ],
)
def test_counts_out_of_range_are_refused(options, call):
    [name] = options | call
    with pytest.raises(InputError, match=rf"{name}: expected a whole number of \d or more, got"):
        Customiser(NETWORK, LAYOUT, **options)(None, [], **call)


def test_the_pad_id_and_the_last_row_are_no_errors():
    examples = campaign(0, 20)
    examples.ids.user[0] = ROWS
    examples.ids.user[1] = ROWS - 1
    (model,) = Customiser(NETWORK, LAYOUT)(GENERAL, [examples], epochs=1)
    assert np.isfinite(model.values).all()
