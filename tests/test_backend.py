"""The check of the backend, and the flags for a CPU."""

import os

import jax
import jaxlib
import numpy as np
import pytest

from metaheac_jax import backend
from metaheac_jax.backend import (
    LEVEL_FLAG,
    REDUCE_FLAG,
    campaigns_at_once,
    check_backend,
    set_cpu_flags,
)
from metaheac_jax.errors import BackendError

YNN = REDUCE_FLAG.partition("=")[0]


def right(product, rows):
    """What `backend._reductions` should compute."""
    return (product @ np.full((product.shape[1],) * 2, 3)).sum(), (rows**2).sum(axis=1)


def broken(monkeypatch, *, total=1.0, last=1.0):
    """A backend whose results are off by factors: of the sum, and of the last row."""

    def computed(product, rows):
        found, norms = right(product, rows)
        norms[-1] *= last
        return found * total, norms

    monkeypatch.setattr(backend, "_reductions", computed)


def test_a_right_backend_passes(monkeypatch):
    check_backend()
    broken(monkeypatch)
    check_backend()


@pytest.mark.parametrize("wrong", [0.03, float("inf"), float("nan")])
def test_a_wrong_sum_of_a_product_is_reported(monkeypatch, wrong):
    broken(monkeypatch, total=wrong)
    with pytest.raises(BackendError, match="the sum of a matrix product wrongly") as caught:
        check_backend()
    assert jaxlib.__version__ in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_wrong_row_is_reported(monkeypatch):
    broken(monkeypatch, last=0.99)
    with pytest.raises(BackendError, match="computes sums over many rows wrongly"):
        check_backend()


def test_both_are_reported_at_once(monkeypatch):
    broken(monkeypatch, total=0.5, last=0.5)
    with pytest.raises(BackendError, match="the sum of a matrix product and sums over many rows"):
        check_backend()


@pytest.mark.parametrize(
    ("platform", "flags", "advised"),
    [
        ("cpu", "", True),
        ("cpu", f"{YNN}=+eltwise", True),
        ("cpu", REDUCE_FLAG, False),
        ("gpu", "", False),
    ],
)
def test_the_flag_is_advised_where_it_may_help(monkeypatch, platform, flags, advised):
    broken(monkeypatch, total=0.5)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(BackendError, match="install jax and jaxlib") as caught:
        check_backend()
    assert (f"set XLA_FLAGS={REDUCE_FLAG}" in str(caught.value)) == advised


@pytest.fixture
def cpu(monkeypatch):
    """No plugin for an accelerator counts."""
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")


@pytest.mark.usefixtures("cpu")
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (None, f"{LEVEL_FLAG} {REDUCE_FLAG}"),
        ("--xla_dump_to=/x", f"--xla_dump_to=/x {LEVEL_FLAG} {REDUCE_FLAG}"),
        (f"{YNN}=", f"{YNN}= {LEVEL_FLAG}"),
        (f"{LEVEL_FLAG[:-1]}3", f"{LEVEL_FLAG[:-1]}3 {REDUCE_FLAG}"),
        ("/a/file/of/flags", "/a/file/of/flags"),
    ],
)
def test_flags_are_added_to_what_is_given(monkeypatch, given, expected):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    for _ in range(2):
        set_cpu_flags()
        assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.usefixtures("cpu")
def test_a_flag_that_jaxlib_does_not_know_is_left_out(monkeypatch):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(backend, "REDUCE_FLAG", "--xla_cpu_flag_of_another_version=1")
    set_cpu_flags()
    assert os.environ["XLA_FLAGS"] == LEVEL_FLAG


def test_no_flags_beside_an_accelerators_plugin(monkeypatch, tmp_path):
    plugin = tmp_path / "gpu-1.dist-info"
    plugin.mkdir()
    (plugin / "METADATA").write_text("Name: gpu\nVersion: 1\n")
    (plugin / "entry_points.txt").write_text("[jax_plugins]\ngpu = gpu\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    set_cpu_flags()
    assert "XLA_FLAGS" not in os.environ
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    set_cpu_flags()
    assert REDUCE_FLAG in os.environ["XLA_FLAGS"]


def test_campaigns_run_in_turn_on_a_cpu_only(monkeypatch):
    for platform, expected in (("cpu", 1), ("gpu", 8), ("tpu", 8)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert campaigns_at_once(8) == expected
