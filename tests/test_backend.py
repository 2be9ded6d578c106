"""The check of the backend, and the flags for a CPU."""

import os
import threading

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from metaheac_jax import backend
from metaheac_jax.backend import (
    LEVEL_FLAG,
    REDUCE_FLAG,
    campaigns_at_once,
    check_backend,
    in_threads,
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


# Threads ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_results_come_in_order(num_threads, count):
    results = in_threads(lambda n: n * n, range(count), num_threads=num_threads)
    assert list(results) == [n * n for n in range(count)]


def test_as_many_are_under_way_at_a_time_as_there_are_threads():
    together = threading.Barrier(3, timeout=30)
    assert len(list(in_threads(lambda _: together.wait(), range(9), num_threads=3))) == 9


def test_an_error_is_handed_on_and_keeps_others_from_beginning():
    begun = []

    def function(number):
        begun.append(number)
        return 1 // (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(function, range(1000), num_threads=2))
    assert len(begun) <= 3 + 1 + 2 * 2


def test_a_thread_computes_as_its_caller_has_set_it():
    def told(number):
        config = jax.config.jax_default_matmul_precision, jax.config.jax_default_device
        return jnp.ones(number).dtype.name, *config

    device = jax.devices()[0]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(device):
        results = set(in_threads(told, range(3), num_threads=2))
    assert results == {("float64", "highest", device)}
