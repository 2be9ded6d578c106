"""The best users of a pool, found in parts: against a sort of all scores, and fetched once."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metaheac_jax.audience.best_users import PADDING, Chunk, RunningTop, best_on_devices
from metaheac_jax.ranking import top

CHUNK = 8


def found(scores, able, size, num_devices=2):
    """The best of (C, P) scores, by ranks that are a permutation, in padded chunks."""
    ranks = np.random.default_rng(0).permutation(scores.shape[1]).astype(np.int32)
    chunks = []
    for start in range(0, len(ranks), CHUNK):
        users = np.arange(start, min(start + CHUNK, len(ranks)))
        pad = 0, CHUNK - len(users)
        chunks.append(
            Chunk(
                np.pad(users, pad)[:, None],
                np.pad(ranks[users], pad, constant_values=PADDING),
                np.pad(able[:, users], ((0, 0), pad)),
            )
        )
    program = jax.jit(lambda users: jnp.asarray(scores)[:, users[:, 0]].T)
    devices = jax.devices()[:1] * num_devices
    return ranks, best_on_devices([program] * num_devices, devices, chunks, len(scores), size)


numbers = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 3.0, np.inf])


@given(
    scores=st.lists(st.tuples(numbers, numbers, st.booleans()), max_size=40),
    size=st.sampled_from([1, 4, 12]),
    num_devices=st.integers(1, 2),
)
@settings(max_examples=20)
def test_the_best_are_those_of_a_sort(scores, size, num_devices):
    table = np.array(scores or np.zeros((0, 3)), np.float32).reshape(-1, 3).T
    scores, able = table[:2], np.stack([table[2] > 0, np.ones(table.shape[1], bool)])
    ranks, best = found(scores, able, size, num_devices)
    for own, kept, *ours in zip(scores, able, best.scores, best.ranks, strict=True):
        chosen = np.flatnonzero(kept)[top(own[kept], ranks[kept], size)]
        missing = (0, size - len(chosen))
        np.testing.assert_array_equal(
            ours[1], np.pad(ranks[chosen], missing, constant_values=PADDING)
        )
        np.testing.assert_array_equal(
            ours[0], np.pad(own[chosen], missing, constant_values=-np.inf)
        )
    assert not best.wrong.any()


def test_a_score_that_is_no_number_is_told_whoever_has_it():
    scores, able = np.zeros((3, 20), np.float32), np.ones((3, 20), bool)
    scores[1, 13], able[1, 13], scores[2, 0] = np.nan, False, np.inf
    assert found(scores, able, 4)[1].wrong.tolist() == [False, True, False]


def test_the_host_fetches_once_per_device(monkeypatch):
    fetched, array = [], type(jnp.zeros(1))
    fetch = array.__array__
    monkeypatch.setattr(array, "__array__", lambda own, *a, **b: fetched.append(own) or fetch(own))
    found(np.ones((3, 200), np.float32), np.ones((3, 200), bool), 5, num_devices=2)
    assert len(fetched) == 2 * 3  # scores, ranks and whether all are numbers


@given(
    st.lists(st.tuples(st.integers(-4, 4), st.integers(0, 1000)), unique_by=lambda x: x[1]),
    st.integers(1, 40),
    st.integers(1, 30),
    st.booleans(),
)
def test_a_running_top_is_the_top_of_all(candidates, size, block, text):
    """In blocks of any size, under ties, with numbers and with text as ids."""
    scores = np.array([score for score, _ in candidates], float) / 3
    keys = np.array([key for _, key in candidates], int).astype("S4" if text else int)
    running = RunningTop(size, keys.dtype)
    for start in range(0, len(keys), block):
        running.add(scores[start : start + block], keys[start : start + block])
    scores = scores.astype(np.float32)
    order = top(scores, keys, size)
    for found, expected in zip(running.best(), (scores[order], keys[order]), strict=True):
        np.testing.assert_array_equal(found, expected)
        assert found.dtype == expected.dtype


def held(running):
    """Number of candidates in memory."""
    return len(running._scores) + sum(len(scores) for scores, _ in running._new)


@pytest.mark.parametrize("tied", [False, True])
def test_a_running_top_holds_no_more_than_a_quarter_above_its_size(tied):
    """Whatever the order of the scores: ascending ones all enter the top."""
    running, most = RunningTop(40, np.dtype(int)), 0
    for start in range(0, 5000, 5):
        keys = np.arange(start, start + 5)
        running.add(np.zeros(5) if tied else keys.astype(float), -keys)
        most = max(most, held(running))
    assert most <= 50
    assert running.best()[1].tolist() == [-key for key in range(4999, 4959, -1)]
