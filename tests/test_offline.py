"""The offline loop: it learns, resumes exactly, stops at a loss that is no number."""

import json
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from toy import dataset

from metaheac_jax.checkpoint import Checkpoints
from metaheac_jax.data.sampling import CampaignSampler
from metaheac_jax.errors import InputError
from metaheac_jax.losses import build_loss
from metaheac_jax.meta import build_meta_gradient
from metaheac_jax.network import MetaHeac
from metaheac_jax.offline import Diverged, PlainInfo, initialise, train
from metaheac_jax.rows import RowStep, build_row_step, select_rows, table_adam

DATA = dataset()
NETWORK = MetaHeac(experts=2, critics=2, widths=(6, 6), gate_width=6)


@cache
def step():
    loss = build_loss(NETWORK.apply, DATA.schema.user_slots)
    gradient = build_meta_gradient(loss, inner_learning_rate=0.05, select=select_rows)
    return build_row_step(gradient, optax.adam(0.01), table_adam(0.01))


def start():
    general = initialise(
        NETWORK, jax.random.key(0), rows=DATA.rows, user_fields=3, campaign_fields=2, width=4
    )
    return step().init(*general)


def sampler():
    return CampaignSampler(DATA, np.arange(8), seed=0, campaigns_per_step=4, rows=64)


def test_learns_and_logs_and_tells_progress(tmp_path):
    told = []
    log = tmp_path / "log.jsonl"
    train(
        step(), start(), sampler(), steps=120, name="toy", log=log, log_every=20,
        progress=lambda *a: told.append(a),
    )  # fmt: skip
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120]
    assert lines[-1]["loss"] < 0.9 * lines[0]["loss"]
    assert all(line["name"] == "toy" and line["steps_per_second"] > 0 for line in lines)
    assert told[0] == ("toy", 0, 120)
    assert told[-1][1:] == (120, 120)


def test_a_run_that_was_cut_off_resumes_to_the_same_bits(tmp_path):
    class CutOff(Exception):
        pass

    def cut(number):
        if number == 25:
            raise CutOff
        return sampler_(number)

    sampler_ = sampler()
    with Checkpoints(tmp_path / "whole") as checkpoints:
        whole = train(step(), start(), sampler(), steps=40, checkpoints=checkpoints, save_every=10)
    with Checkpoints(tmp_path / "cut") as checkpoints, pytest.raises(CutOff):
        train(step(), start(), cut, steps=40, checkpoints=checkpoints, save_every=10)
    with Checkpoints(tmp_path / "cut") as checkpoints:
        assert checkpoints.latest == 20
        resumed = train(
            step(), start(), sampler(), steps=40, checkpoints=checkpoints, save_every=10
        )
    jax.tree.map(np.testing.assert_array_equal, whole, resumed)


def test_a_loss_that_is_no_number_stops_the_run_and_names_the_step(tmp_path):
    def broken(state, number):
        return state, PlainInfo(jnp.where(number == 33, jnp.nan, 1.0))

    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(Diverged, match="toy: the loss of step 33 is nan"):
            train(
                RowStep(lambda *a: a, broken), jnp.zeros(3), lambda s: (s,), steps=100, name="toy",
                checkpoints=checkpoints, save_every=10,
            )  # fmt: skip
        assert checkpoints.latest == 30


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"a": jnp.zeros(4), "b": jnp.zeros(2)}, r"has float32\[3\] as a, .* has float32\[4\]"),
        ({"a": jnp.zeros(3, int), "b": jnp.zeros(2)}, r"has float32\[3\] as a, .* has int32\[3\]"),
        ({"a": jnp.zeros(3)}, r"has float32\[2\] as b, this run has nothing"),
        ({"a": jnp.zeros(3), "b": jnp.zeros(2), "c": jnp.zeros(1)}, "has nothing as c"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, other, said):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(3, {"a": jnp.arange(3.0), "b": jnp.ones(2)})
    with Checkpoints(tmp_path / "c") as checkpoints:
        with pytest.raises(InputError, match=said):
            checkpoints.restore(other)
        same = checkpoints.restore({"a": jnp.zeros(3), "b": jnp.zeros(2)})
        np.testing.assert_array_equal(same["a"], [0, 1, 2])


def test_a_damaged_checkpoint_is_refused(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(3, {"a": jnp.arange(1000.0)})
    data = [p for p in (tmp_path / "c" / "3").rglob("*") if p.is_file() and "/d/" in str(p)]
    assert data
    for path in data:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with Checkpoints(tmp_path / "c") as checkpoints, pytest.raises(InputError, match="damaged"):
        checkpoints.restore({"a": jnp.zeros(1000)})


def test_only_the_last_two_checkpoints_stay(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for number in (1, 2, 3):
            checkpoints.save(number, {"a": jnp.full(3, float(number))})
        assert checkpoints.latest == 3
        assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_nothing_to_restore_is_said(tmp_path):
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(InputError, match="no checkpoint"),
    ):
        checkpoints.restore({"a": jnp.zeros(3)})
