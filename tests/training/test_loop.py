"""The offline loop: it learns, resumes exactly, stops at a loss that is no number."""

import json
from contextlib import nullcontext
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import dataset

from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.model import initialise
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training import loop
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.log import json_lines, to_progress
from metaheac_jax.training.loop import EarlyStop, Quality, train
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient
from metaheac_jax.training.step import PlainInfo, RowStep, build_row_step

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


def losses(records):
    return [record for record in records if "loss" in record]


def test_learns_and_tells_hooks():
    told, records = [], []
    hooks = [records.append, to_progress(lambda *own: told.append(own))]
    train(step(), start(), sampler(), num_steps=120, name="toy", hooks=hooks, log_every=20)
    assert records[0] == {"name": "toy", "step": 0, "of": 120, "resumable": False}
    assert [record["step"] for record in records[1:]] == [20, 40, 60, 80, 100, 120]
    assert records[-1]["loss"] < 0.9 * records[1]["loss"]
    assert all(record["name"] == "toy" for record in records)
    assert told[0] == ("toy", 0, 120)
    assert told[-1][1:] == (120, 120)


def test_a_record_has_the_mean_loss_and_the_speed_since_the_last_one(monkeypatch):
    """The loss is the number of the step; the first 20 steps take half a second, the others one."""
    now, records = [0.0], []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def timed(state, number):
        now[0] += 0.5 if number < 20 else 1.0
        return state, PlainInfo(jnp.float32(number))

    options = {"num_steps": 50, "hooks": [records.append], "log_every": 20}
    train(RowStep(lambda *a: a, timed), jnp.zeros(()), lambda number: (number,), **options)
    found = losses(records)
    assert [(own["step"], own["loss"]) for own in found] == [(20, 9.5), (40, 29.5), (50, 44.5)]
    assert [own["steps_per_second"] for own in found] == [2, 1, 1]
    assert [own["seconds"] for own in found] == [10, 30, 40]


def test_a_speed_leaves_out_the_time_of_judgements(monkeypatch):
    """A step takes a second, a judgement a hundred."""
    now, records = [0.0], []
    monkeypatch.setattr(loop.time, "perf_counter", lambda: now[0])

    def wait(seconds, result):
        now[0] += seconds
        return result

    step = RowStep(lambda *a: a, lambda state, _: wait(1, (state, PlainInfo(jnp.float32(0)))))
    early_stop = EarlyStop(lambda state: wait(100, Quality(0.5, 0.0)), every=20, patience=9)
    options = {"num_steps": 60, "hooks": [records.append], "early_stop": early_stop}
    train(step, jnp.zeros(()), lambda number: (number,), **options)
    assert [own["steps_per_second"] for own in losses(records)] == [1, 1, 1]


@pytest.mark.slow
def test_a_run_that_was_cut_off_resumes_to_the_same_bits(tmp_path):
    class CutOff(Exception):
        pass

    def cut(number):
        if number == 25:
            raise CutOff
        return sampler_(number)

    sampler_, options = sampler(), {"num_steps": 40, "save_every": 10}
    with Checkpoints(tmp_path / "whole") as checkpoints:
        whole, _ = train(step(), start(), sampler_, checkpoints=checkpoints, **options)
    with Checkpoints(tmp_path / "cut") as checkpoints, pytest.raises(CutOff):
        train(step(), start(), cut, checkpoints=checkpoints, **options)
    with Checkpoints(tmp_path / "cut") as checkpoints:
        assert checkpoints.latest == 20
        resumed, _ = train(step(), start(), sampler_, checkpoints=checkpoints, **options)
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path):
    def broken(state, number):
        return state, PlainInfo(jnp.where(number == 33, jnp.nan, 1.0))

    step = RowStep(lambda *a: a, broken)
    options = {"num_steps": 100, "name": "toy", "save_every": 10}
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(Diverged, match="toy: step 34: the loss is nan"):
            train(step, jnp.zeros(3), lambda s: (s,), checkpoints=checkpoints, **options)
        assert checkpoints.latest == 30


def saved_steps(early_stop=None):
    """The steps of which a training of 20 steps saves a checkpoint, if only time counts."""
    saved = []
    still = RowStep(lambda *a: a, lambda state, number: (state, PlainInfo(jnp.ones(()))))

    class Notes:
        latest = None

        def save(self, number, state, notes):
            saved.append(number)

    options = {"num_steps": 20, "save_every": 10**6, "log_every": 10**6}
    options |= {"checkpoints": Notes(), "early_stop": early_stop}
    train(still, jnp.zeros(3), lambda s: (s,), **options)
    return saved


def test_time_between_checkpoints_is_bounded(tmp_path, monkeypatch):
    """And no step is saved before that time has passed, except the last one."""
    now = iter(range(0, 10**6, 10))  # each look at the clock takes ten seconds
    monkeypatch.setattr("metaheac_jax.training.loop.time.perf_counter", lambda: float(next(now)))
    saved = saved_steps()
    assert saved[-1] == 20
    assert max(np.diff([0, *saved])) <= 6
    assert min(np.diff(saved[:-1])) > 1


def test_a_judgement_that_takes_long_is_saved_at_once(monkeypatch):
    now = [0.0]

    def wait(seconds, result=None):
        now[0] += seconds
        return now[0] if result is None else result

    monkeypatch.setattr(loop.time, "perf_counter", lambda: wait(1))
    early_stop = EarlyStop(lambda _: wait(100, Quality(0.5, 0.0)), every=5, patience=9)
    assert saved_steps(early_stop) == [5, 10, 15, 20]


@pytest.mark.parametrize("checkpointed", [True, False])
def test_a_state_that_is_not_finite_is_neither_saved_nor_returned(tmp_path, checkpointed):
    """Under a finite loss; the checkpoint before it stays."""

    def broken(state, number):
        bad = jnp.where(number >= 14, jnp.inf, 0.0)
        return {"w": state["w"] + bad, "b": state["b"]}, PlainInfo(jnp.ones(()))

    step = RowStep(lambda *a: a, broken)
    state, options = {"w": jnp.zeros(3), "b": jnp.zeros(2)}, {"num_steps": 20, "name": "toy"}
    with Checkpoints.at(tmp_path / "c" if checkpointed else None) as checkpoints:
        with pytest.raises(Diverged, match="toy: after step 20, w of the state is not finite"):
            train(step, state, lambda s: (s,), checkpoints=checkpoints, save_every=10, **options)
        assert checkpoints is None or checkpoints.latest == 10


def test_a_state_that_is_not_finite_is_not_judged():
    """It might become the best one. Nothing is saved, so no checkpoint is a reason to look."""
    judged = []

    def broken(state, number):
        return state + jnp.where(number == 7, jnp.inf, 1.0), PlainInfo(jnp.ones(()))

    early_stop = EarlyStop(
        lambda s: judged.append(float(s)) or Quality(0.5, 0.0), every=5, patience=9
    )
    options = {"num_steps": 20, "name": "toy", "early_stop": early_stop}
    with pytest.raises(Diverged, match="toy: after step 10, "):
        train(RowStep(lambda *a: a, broken), jnp.zeros(()), lambda s: (s,), **options)
    assert judged == [5]


def plateau(rate):
    """An optimiser whose best value is infinite for four steps."""
    return optax.chain(optax.sgd(rate), optax.contrib.reduce_on_plateau(accumulation_size=5))


def test_an_infinite_value_at_the_start_of_an_optimiser_is_not_divergence(tmp_path):
    """Also in a training that resumes; weights that are not finite at the start are refused."""
    options = {"optimizer": plateau}

    def run(num_steps, start):
        with Checkpoints(tmp_path / "c") as checkpoints:
            return train(
                checked(**options), start, lambda _: rows_and_factors(0.1), num_steps=num_steps,
                checkpoints=checkpoints,
            )[0]  # fmt: skip

    assert run(2, whole(**options)).opt_state[1].best_value == np.inf
    assert run(4, whole(**options)).opt_state[1].best_value == np.inf
    assert np.isfinite(run(6, whole(**options)).opt_state[1].best_value)
    bad = whole(**options)
    bad = bad._replace(table=bad.table._replace(table=bad.table.table.at[0].set(np.nan)))
    with pytest.raises(Diverged, match="after step 2, table/table of the state is not finite"):
        train(checked(**options), bad, lambda _: rows_and_factors(0.1), num_steps=2)


@cache
def checked(optimizer=optax.adam, rate=0.01):
    """A step whose gradient is the parameters times factors, which the batch has.

    The batch also has a number that is added to the loss.
    """

    def gradient(params, network, table, added):
        grads = {"network": params["network"] * network, "table": params["table"] * table}
        return grads, PlainInfo(jnp.sum(params["network"] ** 2) + added)

    return build_row_step(gradient, optimizer(rate), table_adam(0.01), checked=True)


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


def test_steps_that_are_not_finite_are_left_out_and_told(tmp_path):
    """As if they had not been asked for; counted over a resumption; too many end the training."""
    bad, log = (3, 12, 27), tmp_path / "log"
    told = "toy: step {}: the gradient/network is not finite \\(campaigns {}, t\\)"

    def draw(number):
        return rows_and_factors(network=np.nan if number in bad else float(number))

    def run(num_steps, skip):
        with Checkpoints(tmp_path / "c") as checkpoints:
            return train(
                checked(), whole(), draw, num_steps=num_steps, save_every=10, log_every=5,
                checkpoints=checkpoints, skip_nonfinite=skip, name="toy", hooks=[json_lines(log)],
                campaigns_of=lambda number: np.array([number, b"t"], object),
            )[0]  # fmt: skip

    with pytest.raises(Diverged, match=told.format(4, 3) + "; lower"):
        run(20, 0)
    with (
        pytest.warns(match=told.format(4, 3) + "; the step is skipped"),
        pytest.warns(match=told.format(13, 12)),
    ):
        state = run(20, 2)
    good = [number for number in range(20) if number not in bad]
    only, _ = train(checked(), whole(), lambda n: draw(good[n]), num_steps=18)
    jax.tree.map(np.testing.assert_array_equal, state, only)
    with pytest.raises(Diverged, match=told.format(28, 27) + ", after 2 that were skipped"):
        run(40, 2)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    skipped = [(line["step"], line["campaigns"]) for line in lines if "skipped" in line]
    assert skipped == [(4, [3, "t"]), (13, [12, "t"])]
    assert all(np.isfinite(line["loss"]) for line in lines if "loss" in line)


def test_a_resumed_training_goes_on_counting_seconds_and_logs_every_step_once(tmp_path):
    log, sampler_ = tmp_path / "log.jsonl", sampler()
    log.write_text(
        '{"name": "other", "step": 40}\n{"name": "toy", "step": 30}\n{"name": "toy", "st'
    )
    options = {"name": "toy", "hooks": [json_lines(log)], "log_every": 10, "save_every": 10}
    for steps in (20, 30):
        with Checkpoints(tmp_path / "c") as checkpoints:
            train(step(), start(), sampler_, num_steps=steps, checkpoints=checkpoints, **options)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(line["name"], line["step"]) for line in lines] == [
        ("other", 40), ("toy", 10), ("toy", 20), ("toy", 30)
    ]  # fmt: skip
    assert lines[1]["seconds"] < lines[2]["seconds"] < lines[3]["seconds"]


# Early stopping ---------------------------------------------------------------------------------

AUCS = {3: 0.5, 6: 0.7, 9: 0.6, 12: 0.7, 15: 0.65, 17: 0.95, 18: 0.9}


def counting():
    """A step that counts, and a judge that gives `AUCS` of the count."""
    step = RowStep(lambda *a: a, lambda state, number: (state + 1, PlainInfo(jnp.ones(()))))

    def judge(state):
        return Quality(AUCS[int(state)], float(state))

    return step, judge


def count_to(directory, patience, num_steps=18, cut=None, patience_steps=0, hook=lambda _: None):
    step, judge = counting()

    def draw(number):
        if number == cut:
            raise KeyboardInterrupt
        return (number,)

    early_stop = EarlyStop(judge, 3, patience, patience_steps)
    with Checkpoints.at(directory) as checkpoints:
        return train(
            step, jnp.zeros(()), draw, num_steps=num_steps, early_stop=early_stop,
            checkpoints=checkpoints, save_every=4, hooks=[hook],
        )  # fmt: skip


@pytest.mark.parametrize(("patience", "last", "best"), [(1, 9, 6), (2, 12, 6), (6, 18, 18)])
def test_the_best_state_is_kept_and_training_ends_without_gain(tmp_path, patience, last, best):
    """Equal is no gain: the first of the best stays."""
    records = []
    state, judged = count_to(tmp_path / "c", patience, hook=records.append)
    assert int(state) == best
    np.testing.assert_allclose(judged, [[s, AUCS[s], s] for s in range(3, last + 1, 3)], rtol=1e-6)
    told = {own["step"]: own["held_out_auc"] for own in records if "held_out_auc" in own}
    assert told == {s: AUCS[s] for s in range(3, last + 1, 3)}


@pytest.mark.parametrize(
    ("patience", "patience_steps", "last"),
    [(1, 3, 9), (1, 4, 12), (1, 7, 15), (3, 7, 15), (3, 6, 15)],
)
def test_training_ends_after_both_patiences(patience, patience_steps, last):
    """The best judgement is that of step 6."""
    told = []
    hook = lambda record: told.append((record["step"], record["of"]))  # noqa: E731
    state, judged = count_to(None, patience, patience_steps=patience_steps, hook=hook)
    assert (int(state), judged[-1, 0]) == (6, last)
    steps, ends = zip(*told, strict=True)
    assert told[-1] == (last, last)  # a record tells when training ends without gain
    assert all(end >= step for step, end in told)
    assert set(ends[steps.index(3) :]) == {last - 3, last}


@pytest.mark.parametrize(
    ("patience", "num_steps", "told"),
    [(4, 18, True), (5, 18, True), (6, 18, False), (4, 15, True), (3, 15, False), (4, 9, False)],
)
def test_a_training_that_still_improved_at_its_maximum_says_so(tmp_path, patience, num_steps, told):
    """Whether it is resumed after its last step or not, but not if it had few judgements."""
    for _ in range(2):
        with pytest.warns(match=f"maximum of {num_steps} steps") if told else nullcontext():
            count_to(tmp_path / "c", patience, num_steps=num_steps)


@pytest.mark.parametrize("cut", [5, 7, 10, 11])
def test_early_stopping_survives_an_interruption(tmp_path, cut):
    with pytest.raises(KeyboardInterrupt):
        count_to(tmp_path / "c", 3, cut=cut)
    state, judged = count_to(tmp_path / "c", 3)
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
    """As when training goes on from a good model: the state of step 0 is judged too."""
    step, _ = counting()
    aucs = {0: 0.8, 3: 0.7, 6: 0.75, 9: 0.6}
    early_stop = EarlyStop(
        judge=lambda state: Quality(aucs[int(state)], 0.0), every=3, patience=3, judge_start=True
    )
    options = {"num_steps": 18, "early_stop": early_stop}
    state, judged = train(step, jnp.zeros(()), lambda number: (number,), **options)
    assert int(state) == 0
    np.testing.assert_allclose(judged[:, 0], [0, 3, 6, 9])


@pytest.mark.parametrize(
    ("aucs", "best"), [([0.6, np.nan, 0.7], 9), ([np.nan, 0.6, 0.5], 6), ([np.nan] * 3, 3)]
)
def test_an_auc_that_is_no_number_is_never_better(aucs, best):
    step, _ = counting()
    left = iter([*aucs, 0.4, 0.4, 0.4])
    early_stop = EarlyStop(judge=lambda _: Quality(next(left), 0.0), every=3, patience=3)
    options = {"num_steps": 3 * len(aucs), "early_stop": early_stop}
    state, judged = train(step, jnp.zeros(()), lambda number: (number,), **options)
    assert int(state) == best
    assert len(judged) == len(aucs)


def test_the_last_state_is_judged_too():
    state, judged = count_to(None, 9, num_steps=17)
    assert (int(state), judged[-1, 0]) == (17, 17)


def test_a_training_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path):
    draw = sampler()
    whole, _ = train(step(), start(), draw, num_steps=40)
    with Checkpoints(tmp_path / "c") as checkpoints:
        train(step(), start(), draw, num_steps=20, save_every=10, checkpoints=checkpoints)
    (tmp_path / "c" / "20" / "checkpoint.json").write_text("{")
    drawn = []
    note = lambda number: drawn.append(number) or draw(number)  # noqa: E731
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.warns(UserWarning, match="checkpoint of step 10 is used"),
    ):
        resumed, _ = train(
            step(), start(), note, num_steps=40, save_every=10, checkpoints=checkpoints
        )
    assert sorted(drawn) == [*range(10, 40)]
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)
