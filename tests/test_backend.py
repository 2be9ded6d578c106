"""Programs for a CPU, the check of the backend, and threads."""

import platform
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
import pytest

from metaheac_jax import backend
from metaheac_jax.backend import check_backend, in_threads, jit, profile
from metaheac_jax.errors import BackendError


def broken(monkeypatch, *, total=1.0, last=1.0, batch=1.0):
    """A backend whose results are off by factors: of the sum, the last row and the last batch."""
    right = backend._reductions

    def computed(product, rows, batches):
        whole, norms, sums = right(product, rows, batches)
        return whole * total, norms.at[-1].multiply(last), sums.at[-1].multiply(batch)

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
        ({"batch": 1e30}, "computes sums over batches of matrix products wrongly"),
        ({"total": 0.5, "last": 0.5}, "a matrix product and sums over many rows wrongly"),
    ],
)
def test_a_wrong_result_is_named(monkeypatch, wrong, told):
    broken(monkeypatch, **wrong)
    with pytest.raises(BackendError, match=told) as caught:
        check_backend()
    assert jaxlib.__version__ in str(caught.value)


def test_a_program_for_a_cpu_is_compiled_with_the_options(monkeypatch):
    wrong = {**backend.CPU_OPTIONS, "xla_cpu_experimental_ynn_fusion_type": "no type"}
    monkeypatch.setattr(backend, "_known_options", lambda: wrong)
    with pytest.raises(jax.errors.JaxRuntimeError, match="no type"):
        jit(jnp.negative)(1)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert jit(jnp.negative)(1) == -1


@pytest.mark.parametrize(
    "within",
    [jax.jit, jax.grad, jax.vmap, lambda own: lambda x: jax.jit(lambda: own(np.ones(4)) * x)()],
    ids=["jit", "grad", "vmap", "a constant"],
)
def test_a_program_within_another_transformation_is_the_callers(within):
    given = np.ones((3, 2)) if within is jax.vmap else np.float32(2)
    doubled = jit(lambda x: 2 * jnp.sum(x))
    expected = np.asarray(within(lambda x: 2 * jnp.sum(x))(given))
    np.testing.assert_array_equal(within(doubled)(given), expected)


def test_an_option_that_jaxlib_does_not_know_is_left_out(monkeypatch):
    monkeypatch.setitem(backend.CPU_OPTIONS, "xla_of_another_version", "1")
    backend._known_options.cache_clear()
    assert jit(jnp.negative)(1) == -1
    assert "xla_of_another_version" not in backend._known_options()


def test_the_check_compiles_as_it_is_told():
    with pytest.raises(BackendError, match="batches of matrix products"):
        check_backend(lambda own: lambda *given: (*jit(own)(*given)[:2], jnp.nan))


def test_the_processor_is_named_on_any_system(monkeypatch):
    own = backend.processor()
    assert own == backend.processor()
    assert own.strip()
    assert "\n" not in own
    monkeypatch.setattr(backend, "Path", lambda _: Path("no", "such", "file"))
    assert backend.processor() in (platform.processor(), platform.machine())
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert backend.processor() == jax.devices()[0].device_kind


def test_each_kind_of_device_has_a_profile(monkeypatch):
    found = []
    for kind in ("cpu", "gpu", "tpu"):
        monkeypatch.setattr(jax, "default_backend", lambda kind=kind: kind)
        found.append(profile())
    assert [own.vmaps_campaigns for own in found] == [False, True, True]
    assert [own.gathers_by_slot for own in found] == [False, False, True]


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
