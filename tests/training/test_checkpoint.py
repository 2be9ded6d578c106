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

from metaheac_jax.errors import InputError
from metaheac_jax.training import checkpoint
from metaheac_jax.training.checkpoint import Checkpoints


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
        checkpoints.save(3, state_of(3))
        checkpoints.save(7, state_of(7))
    return folder


@pytest.fixture
def copied(saved, tmp_path):
    return Path(shutil.copytree(saved, tmp_path / "c"))


def restored(folder):
    """The step that a run goes on from, and the warnings."""
    with warnings.catch_warnings(record=True) as told, Checkpoints(folder) as checkpoints:
        warnings.simplefilter("always")
        state = checkpoints.restore(state_of(0))
        found = checkpoints.latest
    jax.tree.map(np.testing.assert_array_equal, state, state_of(found))
    return found, [str(warning.message) for warning in told]


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def test_some_arrays_are_in_files_of_their_own(saved):
    """Small ones are in orbax's index, which it verifies."""
    assert max(path.stat().st_size for path in files_of(saved / "7")) > 50_000


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_never_taken_for_a_whole_one(saved, tmp_path, damage):
    """The checkpoint before is used, and a line says so, whichever file it is."""
    rng = np.random.default_rng(0)
    for number, path in enumerate(files_of(saved / "7")):
        folder = Path(shutil.copytree(saved, tmp_path / str(number)))
        inflict(folder / path.relative_to(saved), damage, rng)
        found, told = restored(folder)
        assert (found, len(told)) == (3, 1)
        for line in told:
            assert line.startswith(f"{folder / '7'}")
            assert line.endswith(
                "; the checkpoint is damaged; it was set aside as damaged-7, and the checkpoint of "
                "step 3 is used"
            )
            assert "nothing as" not in line
            assert "\n" not in line
            assert contents(folder) == {"3", "damaged-7"}


@pytest.mark.parametrize("at", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_every_bit_of_the_arrays_counts(copied, at):
    largest = max(files_of(copied / "7"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[int(at * len(content))] ^= 1
    largest.write_bytes(content)
    found, [line] = restored(copied)
    assert (found, f"{largest}: altered since it was written" in line) == (3, True)
    with Checkpoints(copied) as checkpoints:  # the run gets there again
        checkpoints.save(7, state_of(7))
    assert restored(copied) == (7, [])


def test_a_checkpoint_that_is_damaged_again_is_set_aside_again(copied):
    for _ in range(2):
        inflict(copied / "7" / checkpoint.MANIFEST, "all", np.random.default_rng(0))
        found, [line] = restored(copied)
        assert (found, "it was set aside as damaged-7" in line) == (3, True)
        with Checkpoints(copied) as checkpoints:
            checkpoints.save(7, state_of(7))
    assert restored(copied) == (7, [])
    assert contents(copied) == {"3", "7", "damaged-7"}


def test_a_checkpoint_under_another_step_is_damaged(copied):
    shutil.copytree(copied / "7", copied / "9")
    found, [line] = restored(copied)
    assert found == 7
    assert line.startswith(
        f"{copied / '9'}: contains the checkpoint of step 7; the checkpoint is damaged; it was"
    )


def test_damaged_checkpoints_without_a_whole_one_are_named_and_stay(copied):
    for step in ("3", "7"):
        largest = max(files_of(copied / step), key=lambda path: path.stat().st_size)
        inflict(largest, "the end", np.random.default_rng(0))
    with Checkpoints(copied) as checkpoints, pytest.raises(InputError) as caught:
        checkpoints.restore(state_of(0))
    line = str(caught.value)
    assert line.startswith(f"{copied / '7'}")
    assert f"; the checkpoint is damaged, and {copied / '3'}" in line
    assert line.endswith(f"; the checkpoint is damaged; delete {copied} and train again")
    assert "\n" not in line
    assert {"3", "7"} <= contents(copied)


def test_what_orbax_reads_is_compared_with_what_was_saved(copied, monkeypatch):
    other = lambda folder, like: jax.tree.map(lambda leaf: leaf * 2, state_of(7))  # noqa: E731
    monkeypatch.setattr(checkpoint.ocp, "load", other)
    with (
        Checkpoints(copied) as checkpoints,
        pytest.raises(
            InputError, match="step 7: orbax does not restore network/bias as it was saved"
        ),
    ):
        checkpoints.restore(state_of(0))


def test_what_a_killed_process_has_half_written_is_no_checkpoint(copied):
    shutil.copytree(copied / "7", copied / "9.saving")
    shutil.copytree(copied / "7", copied / "9.saving.orbax-checkpoint-tmp")
    assert restored(copied) == (7, [])
    assert contents(copied) == {"3", "7"}


def test_a_save_may_outlive_the_arrays(tmp_path):
    """The next step may consume them while they are being written."""
    step = jax.jit(lambda state: jax.tree.map(lambda leaf: leaf + 1, state), donate_argnums=0)
    state = {"a": jnp.zeros((2000, 500))}
    with Checkpoints(tmp_path / "c") as checkpoints:
        for number in range(2):
            checkpoints.save(number, state)
            for _ in range(5):
                state = step(state)
        saved = checkpoints.restore(state)
    np.testing.assert_array_equal(saved["a"], np.full((2000, 500), 5.0))


@pytest.mark.parametrize("stops", ["save", "wait", "__exit__"])
def test_a_save_that_failed_stops_the_run(tmp_path, stops):
    """At the next save, or at the end; at once, in one line."""
    folder, checkpoints = tmp_path / "c", Checkpoints(tmp_path / "c")
    checkpoints.save(1, state_of(1))
    checkpoints.wait()
    arguments = {"save": (3, state_of(3)), "wait": (), "__exit__": (None, None, None)}[stops]
    words = r"c: the checkpoint of step 2 could not be saved \(.*\); make room for it, then resume"
    with largest_file(10_000), pytest.raises(OSError, match=words) as caught:  # noqa: PT012
        checkpoints.save(2, state_of(2))
        getattr(checkpoints, stops)(*arguments)
    assert "\n" not in str(caught.value)
    checkpoints._stack.close()
    assert restored(folder) == (1, [])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(2, state_of(2))
    assert restored(folder) == (2, [])


def test_all_kinds_of_arrays_are_restored(tmp_path):
    class Pair(NamedTuple):
        left: Any
        right: Any

    state = {
        "file": jnp.float32(2.5),
        "pair": Pair(jnp.arange(3), [jnp.zeros((1, 2)), jnp.ones((2, 1), jnp.bfloat16)]),
        "bool": jnp.array([True, False]),
    }
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(0, state)
        found = checkpoints.restore(jax.tree.map(jnp.zeros_like, state))
    assert jax.tree.structure(found) == jax.tree.structure(state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(state), strict=True):
        np.testing.assert_array_equal(a, b)
        assert (a.dtype, a.shape, a.sharding) == (b.dtype, b.shape, b.sharding)


def test_typed_keys_are_restored(tmp_path):
    key, others = jax.random.key(3), jax.random.split(jax.random.key(4), 2)
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, {"key": key, "others": others})
    with Checkpoints(tmp_path / "c") as checkpoints:
        state = checkpoints.restore({"key": jax.random.key(0), "others": others})
        assert jax.random.normal(state["key"], 5).tolist() == jax.random.normal(key, 5).tolist()
        assert (state["others"] == others).all()
        words = r"has key<fry>\[\] as key, this run has key<rbg>\[\]"
        with pytest.raises(InputError, match=words):
            checkpoints.restore({"key": jax.random.key(0, impl="rbg"), "others": others})


def test_two_runs_do_not_share_checkpoints(tmp_path, writers):
    with writers.of(tmp_path / "c"), pytest.raises(InputError, match="c: process "):
        Checkpoints(tmp_path / "c")


def test_only_the_last_two_checkpoints_stay(tmp_path):
    with Checkpoints(tmp_path / "c") as checkpoints:
        for number in (1, 2, 3):
            checkpoints.save(number, {"a": jnp.full(3, float(number))})
        assert checkpoints.latest == 3
        assert sorted(p.name for p in (tmp_path / "c").iterdir() if p.name.isdigit()) == ["2", "3"]


def test_a_checkpoint_is_on_disk_before_an_older_one_is_deleted(tmp_path, monkeypatch):
    flushed = []
    with Checkpoints(tmp_path / "c") as checkpoints:
        checkpoints.save(1, state_of(1))
        checkpoints.save(2, state_of(2))
        checkpoints.wait()
        folder = checkpoints.directory
        note = lambda path: flushed.append((path, contents(folder)))  # noqa: E731
        monkeypatch.setattr(checkpoint, "fsync", note)
        checkpoints.save(3, state_of(3))
    *parts, last = flushed
    assert last == (folder, {"1", "2", "3"})
    assert contents(folder) == {"2", "3"}
    assert all(there == {"1", "2", "3.saving"} for _, there in parts)
    saved = {path.relative_to(folder / "3") for path in (folder / "3").rglob("*")}
    # The manifest is written, and flushed, after the rest.
    assert {path.relative_to(folder / "3.saving") for path, _ in parts} == {
        Path(), *saved
    } - {Path(checkpoint.MANIFEST)}  # fmt: skip


def test_nothing_to_restore_is_said(tmp_path):
    with (
        Checkpoints(tmp_path / "c") as checkpoints,
        pytest.raises(InputError, match="no checkpoint"),
    ):
        checkpoints.restore({"a": jnp.zeros(3)})


def test_no_directory_means_no_checkpoints(tmp_path):
    with Checkpoints.at(None) as checkpoints:
        assert checkpoints is None
    with Checkpoints.at(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
