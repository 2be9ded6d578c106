"""Customising: equal to whole-table Adam, alone or together; early stop; scores of a pool."""

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import dataset

from metaheac_jax.baselines import LogisticRegression
from metaheac_jax.data.sampling import gather, generator
from metaheac_jax.losses import Batch, build_loss
from metaheac_jax.metrics import auc
from metaheac_jax.network import MetaHeac
from metaheac_jax.offline import General, initialise
from metaheac_jax.online import _hold_out, _localise, _Room, build_customise, build_score
from metaheac_jax.rows import RowIndex

DATA = dataset()
SLOTS = DATA.schema.user_slots
NETWORK = MetaHeac(experts=2, critics=2, widths=(6, 6), gate_width=6)
GENERAL = initialise(
    NETWORK, jax.random.key(0), rows=DATA.rows, user_fields=3, campaign_fields=2, width=4
)


def campaign(c, count=None):
    of = DATA.stage1.of(c)
    examples = np.arange(of.start, of.stop)[:count]
    return gather(DATA, examples, DATA.campaign_rows[c], len(examples))


def whole(model):
    """The customised model as parameters and a whole table."""
    return model.network, np.asarray(GENERAL.table.at[model.rows].set(model.values, mode="drop"))


@pytest.fixture(scope="module", params=[1, 3])
def customise(request):
    small = DATA.small_fields if request.param == 3 else ()
    return build_customise(
        NETWORK, SLOTS, small_fields=small, rows=64, campaigns_at_once=request.param
    )


def test_equals_adam_on_the_whole_table(customise):
    """The oracle: fresh dense Adam over network and whole table, the same minibatches."""
    examples = campaign(2, 150)
    (model,) = customise(GENERAL, [examples], seed=5, epochs=2)
    loss, optimizer = build_loss(NETWORK.apply, SLOTS), optax.adam(1e-3)
    params = {"network": GENERAL.network, "table": GENERAL.table}
    opt_state, rng = optimizer.init(params), generator(5, 0)
    step = jax.jit(jax.grad(loss))
    for _ in range(2):
        order = rng.permutation(150)
        for part in (order[:64], order[64:128], order[128:]):
            batch = examples._replace(
                user=examples.user[part], label=examples.label[part], weight=examples.weight[part]
            )
            updates, opt_state = optimizer.update(step(params, batch), opt_state)
            params = optax.apply_updates(params, updates)
    network, table = whole(model)
    np.testing.assert_allclose(table, params["table"], rtol=0, atol=3e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=3e-6), network, params["network"]
    )
    assert np.abs(table - GENERAL.table).max() > 1e-3


def test_campaigns_do_not_leak_into_each_other(customise):
    """A campaign is what it is whether it has to wait for longer ones, or has none beside it."""
    together = customise(GENERAL, [campaign(0), campaign(1, 70), campaign(2, 130)], seed=1)
    others = customise(GENERAL, [campaign(3, 90), campaign(1, 70), campaign(4, 80)], seed=1)
    a, b = whole(together[1]), whole(others[1])
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=0, atol=1e-6), a, b)
    assert np.abs(whole(together[0])[1] - a[1]).max() > 1e-4


def test_few_sizes_of_a_minibatchs_table():
    """Each compiles a step: a smaller need takes what is there, a larger one makes room anew."""
    index, room, sizes = RowIndex(9000), _Room(1024), []
    for touched in (1900, 300, 2040, 4000, 20):
        user = np.resize(np.arange(touched), (1, 512, 8)).astype(np.int32)
        batch = Batch(user, np.full((1, 2), 8999, np.int32), *np.ones((2, 1, 512)))
        rows, local = _localise(index, batch, room)
        sizes.append(rows.shape[1])
        np.testing.assert_array_equal(rows[0][local.user[0]], user[0])
        np.testing.assert_array_equal(rows[0][local.campaign[0]], 8999)
    assert sizes == [2048, 2048, 2048, 5120, 5120]


class Slow(int):
    """Whose comparison lets another thread run before its outcome is acted on."""

    def __gt__(self, other):
        outcome = int(self) > other
        time.sleep(0.05)
        return outcome


def test_two_campaigns_that_begin_make_room_once():
    """Whoever comes first: 1900 rows fit the room made for 2040, and these fit that for 1900."""
    room = _Room(1024)
    with ThreadPoolExecutor(2) as threads:
        assert len(set(threads.map(room.for_rows, (Slow(2040), Slow(1900))))) == 1


def test_the_pool_cannot_change_a_model():
    """Rows that a campaign's examples do not touch keep their general values."""
    examples = campaign(0, 40)
    (model,) = build_customise(NETWORK, SLOTS)(GENERAL, [examples])
    untouched = np.setdiff1d(np.arange(DATA.rows), np.append(examples.user, examples.campaign))
    assert len(untouched)
    np.testing.assert_array_equal(whole(model)[1][untouched], GENERAL.table[untouched])


@pytest.mark.parametrize("count", [1, 3])  # one by one, and two at a time
def test_precision_is_the_callers_and_rates_do_not_mix(x64, count):
    start = jax.tree.map(lambda leaf: leaf.astype(jnp.float64), GENERAL)
    customise = build_customise(NETWORK, SLOTS)
    examples = [campaign(c, 40) for c in range(count)]
    fast, slow = (customise(start, examples, learning_rate=rate) for rate in (1e-3, 1e-9))
    for one, other in zip(fast, slow, strict=True):
        assert one.values.dtype == jnp.float64
        own = one.rows < DATA.rows
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
    customise = build_customise(NETWORK, SLOTS)
    for rate in (1e-3, 1e-2):
        with compiling() as compiled:
            customise(GENERAL, [campaign(0, 41)], learning_rate=rate, patience=1)
        assert (rate == 1e-3) == bool(compiled)


def test_campaigns_of_all_sizes_compile_once():
    """What a campaign touches is seen before the first, and a smaller one takes what is there."""
    network, slots, rows = LogisticRegression(), sum(SLOTS), 20_000
    params = network.init(jax.random.key(0), jnp.zeros((1, 3, 1)), jnp.zeros((2, 1)))
    general = General(params, jnp.zeros((rows, 1)))

    def examples(count, touched):
        user = np.resize(np.arange(touched), (count, slots)).astype(np.int32)
        label = np.arange(count) % 2.0
        return Batch(user, np.zeros(2, np.int32), label.astype(np.float32), np.ones(count))

    def programs(*campaigns):
        customise = build_customise(network, SLOTS, campaigns_at_once=2)
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


def test_an_error_in_one_campaign_reaches_the_caller():
    examples = [campaign(c, 40) for c in range(3)]
    examples[1] = examples[1]._replace(label=np.full(40, "?"))  # met when a minibatch is filled
    with pytest.raises(ValueError, match="could not convert"):
        build_customise(NETWORK, SLOTS)(GENERAL, examples)


def test_stops_when_the_held_out_loss_stops_falling():
    network = LogisticRegression()
    general = General(network.init(jax.random.key(0), jnp.zeros((1, 3, 1)), jnp.zeros((2, 1))),
                      jnp.zeros((DATA.rows, 1)))  # fmt: skip
    # A rate so high that it overshoots soon.
    customise = partial(build_customise(network, SLOTS, rows=64), learning_rate=0.3)
    steps = []
    (stopped,) = customise(
        general, [campaign(0)], epochs=200, patience=2, watch=lambda step, _: steps.append(step)
    )
    epochs = len(steps) / 5  # 270 examples to fit are 5 minibatches
    assert 2 < epochs < 200
    score = build_score(network, SLOTS)

    def pool_loss(model):
        of = DATA.stage2.of(0)
        users, labels = DATA.user_rows[DATA.stage2.user[of]], DATA.stage2.label[of]
        odds = score(general, model, DATA.campaign_rows[0], users).astype(float)
        return np.mean(np.logaddexp(0, odds) - labels * odds)

    (through,) = customise(general, [campaign(0)], epochs=200)
    assert pool_loss(stopped) < pool_loss(through)
    assert pool_loss(stopped) < pool_loss(None)


def test_a_general_model_that_adapting_harms_is_kept():
    """With examples of random labels and a wild rate, no epoch beats the start."""
    network = LogisticRegression()
    general = General(network.init(jax.random.key(0), jnp.zeros((1, 3, 1)), jnp.zeros((2, 1))),
                      jnp.zeros((DATA.rows, 1)))  # fmt: skip
    examples = campaign(0)
    label = np.random.default_rng(0).permutation(np.arange(300) % 2).astype(np.float32)
    customise = partial(build_customise(network, SLOTS, rows=64), learning_rate=30.0)
    (model,) = customise(general, [examples._replace(label=label)], epochs=3, patience=3)
    np.testing.assert_array_equal(model.values, 0)


def test_one_at_least_of_both_classes_is_held_out():
    rng = np.random.default_rng(0)
    for seeds, held_seeds in ((2, 1), (9, 1), (10, 1), (25, 2)):
        label = rng.permutation(np.arange(100) < seeds).astype(np.float32)
        fit, held = _hold_out(label, 0.1, rng)
        assert sorted([*fit, *held]) == [*range(100)]
        assert label[held].sum() == held_seeds
        assert len(held) - held_seeds == int(0.1 * (100 - seeds))


def test_a_campaign_with_a_single_seed_keeps_the_general_model(customise):
    label = (np.arange(40) == 3).astype(np.float32)
    examples = campaign(0, 40)._replace(label=label)
    (model,) = customise(GENERAL, [examples], epochs=2, patience=1)
    network, table = whole(model)
    np.testing.assert_array_equal(table, GENERAL.table)
    jax.tree.map(np.testing.assert_array_equal, network, GENERAL.network)


def test_scores_do_not_depend_on_the_chunk_and_learn_the_campaign():
    of = DATA.stage2.of(3)
    users, labels = DATA.user_rows[DATA.stage2.user[of]], DATA.stage2.label[of]
    network = LogisticRegression()
    general = General(network.init(jax.random.key(0), jnp.zeros((1, 3, 1)), jnp.zeros((2, 1))),
                      jnp.zeros((DATA.rows, 1)))  # fmt: skip
    (model,) = build_customise(network, SLOTS)(
        general, [campaign(3)], learning_rate=0.02, epochs=60
    )
    one = build_score(network, SLOTS, chunk=7)(general, model, DATA.campaign_rows[3], users)
    two = build_score(network, SLOTS, chunk=512)(general, model, DATA.campaign_rows[3], users)
    np.testing.assert_allclose(one, two, rtol=1e-5)
    assert one.shape == (200,)
    assert auc(one, labels) > 0.65
    assert build_score(network, SLOTS)(general, model, DATA.campaign_rows[3], users[:0]).size == 0
