"""Checkpoints: whole, verified, and only the last two."""

import shutil
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import contents
from damages import DAMAGES, inflict, largest_file

from metaheac_jax.errors import InputError
from metaheac_jax.removing import CHECKPOINT
from metaheac_jax.training.checkpoint import Checkpoints


def state_of(step):
    rng = np.random.default_rng(step)
    network = {"kernel": rng.normal(size=(64, 64)), "bias": rng.normal(size=3), "count": step}
    tree = {"network": network, "table": rng.normal(size=(2000, 16))}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), tree)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The checkpoints of steps 3 and 7."""
    folder = tmp_path_factory.mktemp("saved") / "c"
    checkpoints = Checkpoints(folder)
    for step in (1, 3, 7):
        checkpoints.save(step, state_of(step), {"of": step})
    assert contents(folder) == {"3", "7"}
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "c"))


def restored(folder):
    """The step that a run goes on from."""
    checkpoints = Checkpoints(folder)
    state, notes = checkpoints.restore(state_of(0))
    found = checkpoints.latest
    jax.tree.map(np.testing.assert_array_equal, state, state_of(found))
    assert notes == {"of": found}
    return found


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_stays(
    saved, tmp_path, damage, capfd
):
    """Whichever file it is."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(files_of(saved / "7")):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        inflict(folder / path.relative_to(saved), damage, rng)
        with pytest.raises(InputError, match=f"{folder / '7'}.*; delete {folder / '7'}, and"):
            restored(folder)
        shutil.rmtree(folder / "7")
        assert restored(folder) == 3
    assert capfd.readouterr() == ("", "")  # orbax has not read it
    checkpoints = Checkpoints(folder)  # the run gets there again
    checkpoints.save(7, state_of(7), {"of": 7})
    assert restored(folder) == 7


def test_what_a_killed_process_has_half_written_is_removed(copied):
    shutil.copytree(copied / "7", copied / ".9.metaheac-new")
    (copied / ".9.metaheac-new" / CHECKPOINT).unlink()
    (copied / ".9.lock").touch()
    assert restored(copied) == 7
    assert contents(copied) == {"3", "7"}


def test_folders_of_others_stay(copied):
    """They are no checkpoints, though one has a number, and one a file among those of ours."""
    (copied / "2").mkdir()
    (copied / "2" / "thesis").write_text("ten years")
    (copied / "3" / "notes").write_text("mine")
    checkpoints = Checkpoints(copied)
    for step in (8, 9, 10):
        checkpoints.save(step, state_of(step), {"of": step})
    assert contents(copied) == {"2", "3", "9", "10"}
    assert contents(copied / "3") == {CHECKPOINT, "notes", "state"}
    assert contents(copied / "2") == {"thesis"}


def test_a_save_that_failed_stops_the_run_in_one_line(tmp_path):
    folder = tmp_path / "c"
    words = r"c: the checkpoint of step 2 could not be saved \(.*\); make room for it, then resume"
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, state_of(1), {"of": 1})
    with largest_file(10_000), pytest.raises(OSError, match=words) as caught:
        checkpoints.save(2, state_of(2), {"of": 2})
    assert "\n" not in str(caught.value)
    assert restored(folder) == 1
    checkpoints = Checkpoints(folder)
    checkpoints.save(2, state_of(2), {"of": 2})
    assert restored(folder) == 2


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
    checkpoints = Checkpoints(tmp_path / "c")
    checkpoints.save(0, state)
    found, _ = checkpoints.restore(like)
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        assert (a == b).all()
        assert (a.dtype, a.shape, a.sharding) == (b.dtype, b.shape, b.sharding)
