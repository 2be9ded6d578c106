"""Checkpoints: whole, verified, checked against the run, and only the last two."""

import shutil
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import contents
from damages import DAMAGES, inflict, largest_file

from metaheac_jax.errors import Busy, InputError
from metaheac_jax.training.checkpoint import MANIFEST, Checkpoints


def state_of(step):
    rng = np.random.default_rng(step)
    network = {"kernel": rng.normal(size=(64, 64)), "bias": rng.normal(size=3), "count": step}
    tree = {"network": network, "table": rng.normal(size=(2000, 16))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of steps 3 and 7."""
    folder = tmp_path_factory.mktemp("saved") / "c"
    with Checkpoints(folder) as checkpoints:
        for step in (1, 3, 7):
            checkpoints.save(step, state_of(step), {"of": step})
    assert contents(folder) == {"3", "7"}
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "c"))


def restored(folder):
    """The step that a run goes on from, and the warnings; nothing else is left."""
    with warnings.catch_warnings(record=True) as told, Checkpoints(folder) as checkpoints:
        warnings.simplefilter("always")
        state, notes = checkpoints.restore(state_of(0))
        found = checkpoints.latest
    jax.tree.map(np.testing.assert_array_equal, state, state_of(found))
    assert notes == {"of": found}
    return found, [str(warning.message) for warning in told]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGES)
def test_the_checkpoint_before_a_damaged_one_is_used(saved, tmp_path, damage, capfd):
    """Whichever file it is. Without its manifest, a checkpoint counts as half saved."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(files_of(saved / "7")):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        inflict(folder / path.relative_to(saved), damage, rng)
        found, told = restored(folder)
        assert (found, contents(folder)) == (3, {"3"})
        if path.name != MANIFEST or damage != "the file":
            [line] = told
            assert line.startswith(str(folder / "7"))
            assert "the checkpoint of step 3 is used" in line
    assert capfd.readouterr() == ("", "")  # orbax has not read it
    with Checkpoints(folder) as checkpoints:  # the run gets there again
        checkpoints.save(7, state_of(7), {"of": 7})
    assert restored(folder) == (7, [])


def test_a_checkpoint_under_another_step_is_damaged(copied):
    shutil.copytree(copied / "7", copied / "9")
    found, [line] = restored(copied)
    assert found == 7
    assert str(copied / "9") in line


def test_damaged_checkpoints_without_a_whole_one_are_named_and_stay(copied):
    for step in ("3", "7"):
        largest = max(files_of(copied / step), key=lambda path: path.stat().st_size)
        inflict(largest, "the end", np.random.default_rng(0))
    with Checkpoints(copied) as checkpoints, pytest.raises(InputError) as caught:
        checkpoints.restore(state_of(0))
    for words in (copied / "7", copied / "3", f"delete {copied} and train again"):
        assert str(words) in str(caught.value)
    assert contents(copied) == {"3", "7"}


def test_what_a_killed_process_has_half_written_is_removed(copied):
    shutil.copytree(copied / "7", copied / "9")
    (copied / "9" / MANIFEST).unlink()
    assert restored(copied) == (7, [])
    assert contents(copied) == {"3", "7"}


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
        with pytest.raises(InputError, match="no checkpoint"):
            checkpoints.restore(other)
        checkpoints.save(3, {"a": jnp.arange(3.0), "b": jnp.ones(2)})
        with pytest.raises(InputError, match=said):
            checkpoints.restore(other)
        same, _ = checkpoints.restore({"a": jnp.zeros(3), "b": jnp.zeros(2)})
        np.testing.assert_array_equal(same["a"], [0, 1, 2])


def test_a_save_may_outlive_the_arrays(tmp_path):
    """The next step may consume them while they are being written."""
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"a": jnp.zeros((2000, 500))}
    with Checkpoints(tmp_path / "c") as checkpoints:
        for number in range(2):
            checkpoints.save(number, state)
            for _ in range(5):
                state = step(state)
        saved, _ = checkpoints.restore(state)
    np.testing.assert_array_equal(saved["a"], np.full((2000, 500), 5.0))


@pytest.mark.parametrize("stops", ["save", "wait", "__exit__"])
def test_a_save_that_failed_stops_the_run(tmp_path, stops):
    """At the next save, or at the end; in one line."""
    folder, checkpoints = tmp_path / "c", Checkpoints(tmp_path / "c")
    checkpoints.save(1, state_of(1), {"of": 1})
    checkpoints.wait()
    arguments = {"save": (3, state_of(3)), "wait": (), "__exit__": (None, None, None)}[stops]
    words = r"c: the checkpoint of step 2 could not be saved \(.*\); make room for it, then resume"
    with largest_file(10_000), pytest.raises(OSError, match=words) as caught:  # noqa: PT012
        checkpoints.save(2, state_of(2), {"of": 2})
        getattr(checkpoints, stops)(*arguments)
    assert "\n" not in str(caught.value)
    checkpoints._stack.close()
    assert restored(folder) == (1, [])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, state_of(2), {"of": 2})
    assert restored(folder) == (2, [])


def test_all_kinds_of_arrays_are_restored(tmp_path):
    class Pair(NamedTuple):
        left: Any
        right: Any

    state = {
        "file": jnp.float32(2.5),
        "pair": Pair(jnp.arange(3), [jnp.zeros((1, 2)), jnp.ones((2, 1), jnp.bfloat16)]),
        "bool": jnp.array([True, False]),
        "key": jax.random.key(3),
    }
    like = jax.tree.map(jnp.zeros_like, state | {"key": 0}) | {"key": jax.random.key(0)}
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(0, state)
        found, _ = checkpoints.restore(like)
        with pytest.raises(InputError, match=r"has key<fry>\[\] as key, this run has key<rbg>\[\]"):
            checkpoints.restore(like | {"key": jax.random.key(0, impl="rbg")})
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert (a == b).all()
        assert (a.dtype, a.shape, a.sharding) == (b.dtype, b.shape, b.sharding)


def test_two_runs_do_not_share_checkpoints(tmp_path, writers):
    with writers.of(tmp_path / "c"), pytest.raises(Busy, match="another process is writing it"):
        Checkpoints(tmp_path / "c")


def test_no_directory_means_no_checkpoints(tmp_path):
    with Checkpoints.at(None) as checkpoints:
        assert checkpoints is None
    with Checkpoints.at(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
