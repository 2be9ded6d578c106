"""Threads: results in order, as many at a time as are asked for, and an end when one fails."""

import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import pytest

from metaheac_jax import threads as module
from metaheac_jax.threads import in_threads


@pytest.mark.parametrize("num_threads", [1, 2, 5])
@pytest.mark.parametrize("count", [0, 1, 9])
def test_results_come_in_order(num_threads, count):
    results = in_threads(lambda n: n * n, range(count), num_threads=num_threads)
    assert list(results) == [n * n for n in range(count)]


def test_as_many_are_under_way_at_a_time_as_there_are_threads():
    together = threading.Barrier(3, timeout=30)
    assert len(list(in_threads(lambda _: together.wait(), range(9), num_threads=3))) == 9


def test_few_are_begun_ahead():
    begun = []
    results = in_threads(begun.append, range(1000), num_threads=2)
    for _ in range(3):
        next(results)
    results.close()
    assert len(begun) <= 3 + 2 * 2


def test_an_error_is_handed_on_and_keeps_others_from_beginning():
    begun = []

    def function(number):
        begun.append(number)
        return 1 // (3 - number)

    with pytest.raises(ZeroDivisionError):
        list(in_threads(function, range(1000), num_threads=2))
    assert len(begun) <= 3 + 1 + 2 * 2


def test_none_that_was_queued_begins_once_the_generator_is_closed(monkeypatch):
    """The second item ends when the generator waits for its threads."""
    begun, release = [], threading.Event()

    class Threads(ThreadPoolExecutor):
        def shutdown(self, *args, **options):
            release.set()
            super().shutdown(*args, **options)

    def function(number):
        begun.append(number)
        assert number == 0 or release.wait(30)

    monkeypatch.setattr(module, "ThreadPoolExecutor", Threads)
    results = in_threads(function, range(1000), num_threads=1)
    next(results)
    results.close()
    assert set(begun) <= {0, 1}


def test_a_thread_computes_as_its_caller_has_set_it():
    def told(number):
        config = jax.config.jax_default_matmul_precision, jax.config.jax_default_device
        return jnp.ones(number).dtype.name, *config

    device = jax.devices()[0]
    with jax.enable_x64(True), jax.default_matmul_precision("highest"), jax.default_device(device):
        results = set(in_threads(told, range(3), num_threads=2))
    assert results == {("float64", "highest", device)}
