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


def broken(monkeypatch, *, total=1.0, last=1.0):
    """A backend whose results are off by factors: of the sum, and of the last row."""

    def computed(product, rows):
        norms = (rows**2).sum(axis=1)
        norms[-1] *= last
        return (product @ np.full((product.shape[1],) * 2, 3)).sum() * total, norms

    monkeypatch.setattr(backend, "_reductions", computed)


def test_a_right_backend_passes(monkeypatch):
    check_backend()
    broken(monkeypatch)
    check_backend()


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"total": 0.03}, "computes the sum of a matrix product wrongly"),
        ({"total": float("inf")}, "computes the sum of a matrix product wrongly"),
        ({"total": float("nan")}, "computes the sum of a matrix product wrongly"),
        ({"last": 0.99}, "computes sums over many rows wrongly"),
        ({"total": 0.5, "last": 0.5}, "a matrix product and sums over many rows wrongly"),
    ],
)
def test_a_wrong_result_is_named(monkeypatch, wrong, told):
    broken(monkeypatch, **wrong)
    with pytest.raises(BackendError, match=told) as caught:
        check_backend()
    assert jaxlib.__version__ in str(caught.value)


@pytest.mark.parametrize(
    ("platform", "flags", "advised"),
    [("cpu", "", True), ("cpu", f"{YNN}=+eltwise", True), ("cpu", REDUCE_FLAG, False),
     ("gpu", "", False)],
)  # fmt: skip
def test_the_flag_is_advised_where_it_may_help(monkeypatch, platform, flags, advised):
    broken(monkeypatch, total=0.5)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    monkeypatch.setenv("XLA_FLAGS", flags)
    with pytest.raises(BackendError, match="install jax and jaxlib") as caught:
        check_backend()
    assert (f"set XLA_FLAGS={REDUCE_FLAG}" in str(caught.value)) == advised


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
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given is not None:
        monkeypatch.setenv("XLA_FLAGS", given)
    for _ in range(2):
        set_cpu_flags()
        assert os.environ["XLA_FLAGS"] == expected


@pytest.mark.parametrize(
    ("version", "known"), [("0.10.1", True), ("0.12.4.1", True), ("1.0", False)]
)
def test_a_flag_that_jaxlib_may_not_know_is_left_out(monkeypatch, version, known):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(jaxlib, "__version__", version)
    set_cpu_flags()
    assert (REDUCE_FLAG in os.environ["XLA_FLAGS"]) == known


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


def test_campaigns_run_in_turn_on_a_cpu_only(monkeypatch):
    for platform, expected in (("cpu", 1), ("gpu", 8), ("tpu", 8)):
        monkeypatch.setattr(jax, "default_backend", lambda platform=platform: platform)
        assert campaigns_at_once(8) == expected
