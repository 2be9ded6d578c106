"""The offline loop: it learns, resumes exactly, stops at a loss that is no number."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import dataset

from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.model import Judgement, initialise
from metaheac_jax.networks import MLP
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training import loop
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.loop import EarlyStop, Training, to_progress, train
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient
from metaheac_jax.training.step import PlainInfo, RowInfo, RowStep, build_row_step

DATA = dataset()
NETWORK = MLP(widths=(6, 6))


@cache
def step():
    loss = build_loss(NETWORK, DATA.layout)
    gradient = build_meta_gradient(loss, inner_learning_rate=0.05, select=select_rows)
    return build_row_step(gradient, optax.adam(0.01), table_adam(0.01))


def start():
    key = jax.random.key(0)
    return step().init(*initialise(NETWORK, key, DATA.layout, num_rows=DATA.num_rows, width=4))


def sampler():
    return CampaignSampler(DATA, np.arange(8), seed=0, campaigns_per_step=4, batch_size=64)


def number(step):
    """A batch that is the number of its step."""
    return (step,)


def lost(loss):
    """What a step with this loss reports."""
    return RowInfo(loss, jnp.isfinite(loss), {})


def stepping(function):
    """The two functions of a training, from a step that is not compiled."""
    return RowStep(lambda *own: own, function)


def trained(own, state, draw, *, folder=None, hooks=(), **options):
    """Trains with checkpoints in a folder, or what stands for them."""
    checkpoints = Checkpoints(folder) if isinstance(folder, Path) else folder
    return train(Training(own, state, draw, **options), hooks, checkpoints)


def judgement(auc):
    """A judge's answer; the loss does not matter."""
    return Judgement(0, auc, 0.0)


def losses(records):
    return [record for record in records if "loss" in record]


def test_learns_and_tells_hooks():
    told, records = [], []
    hooks = [records.append, to_progress(lambda *own: told.append(own))]
    trained(step(), start(), sampler(), num_steps=120, name="toy", hooks=hooks)
    assert records[0] == {"name": "toy", "step": 0, "of": 120, "resumed": False}
    assert [record["step"] for record in records[1:]] == [20, 40, 60, 80, 100, 120]
    assert records[-1]["loss"] < 0.9 * records[1]["loss"]
    assert all(record["name"] == "toy" for record in records)
    assert [own[1:] for own in told] == [(done, 120) for done in range(0, 121, 20)]
    hook = to_progress(lambda *own: told.append(own))
    for more in ({"held_out_auc": 0.625, "held_out_loss": 0.5}, {"loss": 0.25}):
        hook({"name": "toy", "step": 3, "of": 9, **more})
        assert told[-1] == ("toy: held-out AUC 0.6250", 3, 9)


def test_the_host_waits_for_the_device_at_the_records_alone(monkeypatch):
    """The host reads an array by numpy, by its value as float does, or blocks until it is there."""
    waits, array, records = [], type(jnp.zeros(1)), []

    def waiting(read):
        def counted(own, *args, **options):
            if any(isinstance(leaf, array) for leaf in jax.tree.leaves(own)):
                waits.append(len(records))
            return read(own, *args, **options)

        return counted

    monkeypatch.setattr(array, "_value", property(waiting(array._value.fget)))
    for owner, name in ((np, "asarray"), (array, "block_until_ready"), (jax, "block_until_ready")):
        monkeypatch.setattr(owner, name, waiting(getattr(owner, name)))
    trained(step(), start(), sampler(), num_steps=48, log_every=16, hooks=[records.append])
    # The losses of 16 steps, and whether these were taken, before each of three records.
    assert waits == [1, 1, 2, 2, 3, 3]


def test_a_record_has_the_mean_loss_and_the_speed_since_the_last_one(monkeypatch):
    """The loss is the number of the step; 20 steps take half a second each, the others one.

    A judgement takes a hundred, which no speed counts.
    """
    now, records = [0.0], []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def timed(state, number):
        now[0] += 0.5 if number < 20 else 1.0
        return state, lost(jnp.float32(number))

    def judge(state, step):
        now[0] += 100
        return judgement(0.5)

    options = {"num_steps": 50, "early_stop": EarlyStop(judge, 20, 9)}
    trained(stepping(timed), jnp.zeros(()), number, hooks=[records.append], **options)
    found = losses(records)
    assert [(own["step"], own["loss"]) for own in found] == [(20, 9.5), (40, 29.5), (50, 44.5)]
    assert [own["steps_per_second"] for own in found] == [2, 1, 1]


class Noted:
    """In place of checkpoints: the steps that are saved."""

    latest = None

    def __init__(self):
        self.steps = []

    def save(self, number, state, notes):
        self.steps.append(number)


def test_time_between_checkpoints_is_bounded(monkeypatch):
    """And no step is saved before that time has passed, except the last one."""
    now, noted = iter(range(0, 10**6, 10)), Noted()  # each look at the clock takes ten seconds
    monkeypatch.setattr(loop.time, "perf_counter", lambda: float(next(now)))
    still = stepping(lambda state, number: (state, lost(jnp.ones(()))))
    options = {"num_steps": 20, "log_every": 1}
    trained(still, jnp.zeros(3), number, folder=noted, **options)
    assert noted.steps[-1] == 20
    assert max(np.diff([0, *noted.steps])) <= 4
    assert min(np.diff(noted.steps[:-1])) > 1
    rare = Noted()
    trained(still, jnp.zeros(3), number, folder=rare, save_seconds=1e9, **options)
    assert rare.steps == [20]


@cache
def checked(optimizer=optax.adam, rate=0.01):
    """A step whose gradient is the parameters times factors, which the batch has.

    The batch also has a number that is added to the loss.
    """

    def gradient(params, network, table, added):
        grads = {"network": params["network"] * network, "table": params["table"] * table}
        return grads, PlainInfo(jnp.sum(params["network"] ** 2) + added)

    return build_row_step(gradient, optimizer(rate), table_adam(0.01))


def whole(**options):
    return checked(**options).init(jnp.ones(3), jnp.ones((5, 2)))


def rows_and_factors(network=1.0, table=1.0, added=0.0):
    return jnp.array([1, 4]), network, table, added


@pytest.mark.parametrize(
    ("bad", "array"),
    [
        ({"network": np.nan}, "gradient/network"),
        ({"table": 1e30}, "table/nu"),
        ({"added": np.nan}, "loss"),
        ({"network": 1e37}, "network"),
    ],
)
def test_a_step_that_is_not_finite_leaves_the_state_as_it_was(bad, array):
    """A gradient whose square is infinite makes a moment so, and a wild rate the parameters."""
    options = {"optimizer": optax.sgd, "rate": 10.0} if array == "network" else {}
    step = checked(**options).step
    state, info = step(whole(**options), *rows_and_factors())
    assert info.taken
    assert (state.table.count, state.table.last.tolist()) == (1, [0, 1, 0, 0, 1])
    before = jax.device_get(state)
    state, info = step(state, *rows_and_factors(**bad))
    assert np.isfinite(info.loss) == (array != "loss")
    assert not info.taken
    jax.tree.map(np.testing.assert_array_equal, state, before)
    assert next(name for name, finite in named_leaves(info.finite).items() if not finite) == array


@pytest.mark.parametrize(
    ("bad", "array"),
    [({"network": np.nan}, "gradient/network is not finite"), ({"added": np.nan}, "loss is nan")],
)
def test_a_step_that_is_not_finite_is_named_and_nothing_after_it_is_judged_or_saved(
    tmp_path, bad, array
):
    def draw(number):
        return rows_and_factors(**{"network": float(number)} | (bad if number == 13 else {}))

    def judge(state, step):
        judged.append((int(state.table.count), step))
        return judgement(0.5)

    judged, options = [], {"num_steps": 20, "name": "toy", "log_every": 10, "save_seconds": 0}
    options |= {"early_stop": EarlyStop(judge, 5, 9), "folder": tmp_path / "c"}
    told = f"toy: step 14: the {array}; lower the learning rates"
    with pytest.raises(Diverged, match=told):
        trained(checked(), whole(), draw, **options)
    assert judged == [(5, 5), (10, 10)]
    checkpoints = Checkpoints(tmp_path / "c")
    assert checkpoints.latest == 10


# Early stopping ---------------------------------------------------------------------------------

AUCS = {3: 0.5, 6: 0.7, 9: 0.6, 12: 0.7, 15: 0.65, 17: 0.95, 18: 0.9}
COUNTING = stepping(lambda state, number: (state + 1, lost(jnp.ones(()))))


def count_to(folder, patience, num_steps=18, cut=None, patience_steps=0, hook=lambda _: None):
    """Trains with a step that counts, and a judge that gives `AUCS` of the count."""

    def draw(number):
        if number == cut:
            raise KeyboardInterrupt
        return (number,)

    def judge(state, step):
        return Judgement(step, AUCS[int(state)], float(state))

    return trained(
        COUNTING, jnp.zeros(()), draw, num_steps=num_steps, log_every=4, folder=folder,
        early_stop=EarlyStop(judge, 3, patience, patience_steps), save_seconds=0, hooks=[hook],
    )  # fmt: skip


@pytest.mark.parametrize(("patience", "last", "best"), [(1, 9, 6), (2, 12, 6), (6, 18, 18)])
def test_the_best_state_is_kept_and_training_ends_without_gain(tmp_path, patience, last, best):
    """Equal is no gain: the first of the best stays."""
    records = []
    state, judged = count_to(tmp_path / "c", patience, hook=records.append)
    assert int(state) == best
    expected = [[s, AUCS[s], s] for s in range(3, last + 1, 3)]
    np.testing.assert_allclose(judged, expected, rtol=1e-6)
    names = ("step", "held_out_auc", "held_out_loss")
    told = [[own[name] for name in names] for own in records if "held_out_auc" in own]
    np.testing.assert_allclose(told, expected, rtol=1e-6)


@pytest.mark.parametrize(
    ("patience", "patience_steps", "last"),
    [(1, 3, 9), (1, 4, 12), (1, 7, 15), (3, 7, 15), (3, 6, 15)],
)
def test_training_ends_after_both_patiences(patience, patience_steps, last):
    """The best judgement is that of step 6."""
    told = []
    hook = lambda record: told.append((record["step"], record["of"]))  # noqa: E731
    state, judged = count_to(None, patience, patience_steps=patience_steps, hook=hook)
    assert (int(state), judged[-1].step) == (6, last)
    steps, ends = zip(*told, strict=True)
    assert told[-1] == (last, last)  # a record tells when training ends without gain
    assert all(end >= step for step, end in told)
    assert set(ends[steps.index(3) :]) == {last - 3, last}


@pytest.mark.parametrize("cut", [5, 7, 10, 11])
def test_early_stopping_survives_an_interruption(tmp_path, cut):
    with pytest.raises(KeyboardInterrupt):
        count_to(tmp_path / "c", 3, cut=cut)
    told = []
    state, judged = count_to(tmp_path / "c", 3, hook=told.append)
    assert (told[0]["step"], told[0]["resumed"]) == (max(cut // 3 * 3, cut // 4 * 4), True)
    whole, judgements = count_to(None, 3)
    assert int(state) == int(whole) == 6
    np.testing.assert_array_equal(judged, judgements)


def test_a_training_that_has_stopped_takes_no_further_step(tmp_path):
    count_to(tmp_path / "c", 1)
    state, judged = count_to(tmp_path / "c", 1, cut=9)  # a draw of another step would raise
    assert (int(state), len(judged)) == (6, 3)


@pytest.mark.parametrize("patience", [1, 9])
def test_a_training_of_fewer_steps_does_not_get_the_result_of_more(tmp_path, patience):
    count_to(tmp_path / "c", patience)
    last = {1: 9, 9: 18}[patience]
    count_to(tmp_path / "c", patience, num_steps=last)
    with pytest.raises(InputError, match=f"of step {last}, and {last - 1} steps are to be taken"):
        count_to(tmp_path / "c", patience, num_steps=last - 1)


def test_a_start_that_nothing_improves_on_is_kept():
    """As when training goes on from a good model: its first state is judged too."""
    aucs = {6: 0.8, 9: 0.7, 12: 0.75, 15: 0.6}
    state, judged = trained(
        COUNTING, jnp.full((), 6.0), number, num_steps=18, done=6,
        early_stop=EarlyStop(lambda state, step: judgement(aucs[int(state)]), 3, 3),
    )  # fmt: skip
    assert int(state) == 6
    assert [own.step for own in judged] == [6, 9, 12, 15]


@pytest.mark.parametrize(
    ("aucs", "best"), [([0.6, np.nan, 0.7], 9), ([np.nan, 0.6, 0.5], 6), ([np.nan] * 3, 3)]
)
def test_an_auc_that_is_no_number_is_never_better(aucs, best):
    left = iter(aucs)
    state, judged = trained(
        COUNTING, jnp.zeros(()), number, num_steps=3 * len(aucs),
        early_stop=EarlyStop(lambda *_: judgement(next(left)), 3, 3),
    )  # fmt: skip
    assert int(state) == best
    assert len(judged) == len(aucs)


def test_the_last_state_is_judged_too():
    state, judged = count_to(None, 9, num_steps=17)
    assert (int(state), judged[-1].step) == (17, 17)
