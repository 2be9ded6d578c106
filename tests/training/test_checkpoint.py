"""Checkpoints: whole, checked against the run, and only the last two."""

import jax.numpy as jnp
import numpy as np
import pytest

from metaheac_jax.errors import InputError
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


def test_no_directory_means_no_checkpoints(tmp_path):
    with Checkpoints.at(None) as checkpoints:
        assert checkpoints is None
    with Checkpoints.at(tmp_path / "c") as checkpoints:
        assert checkpoints.latest is None
