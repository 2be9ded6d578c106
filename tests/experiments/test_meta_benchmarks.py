"""The benchmarks of the meta-step: what they time is what they say."""

import threading
from functools import partial
from multiprocessing import Pipe

import jax
import numpy as np
import pytest
from commands import exit_code, module, refuses

from experiments.throughput import options_meta, rivals_meta
from experiments.throughput.rivals_meta import Result, Size, rows


@pytest.fixture
def tiny(monkeypatch):
    size = Size((3, 4, 4, 1), num_tasks=2, num_examples=5)
    monkeypatch.setitem(rivals_meta.SIZES, "tiny", size)
    return size


@pytest.mark.slow
def test_each_option_gives_a_gradient_of_all_parameters(tiny):
    """Without computing any."""
    cases = options_meta.cases(options_meta.Options(size="tiny", inner_steps=2))
    for case in cases:
        params = jax.eval_shape(lambda tree: tree, case.arguments[0])
        gradient = jax.eval_shape(case.gradient, *case.arguments)
        gradient = gradient if case.name == "Reptile" else gradient[0]
        assert jax.tree.map(lambda leaf: leaf.shape, gradient) == jax.tree.map(
            lambda leaf: leaf.shape, params
        )


def test_a_program_takes_its_turns(tiny):
    ours, its = Pipe()
    build = partial(rivals_meta.ours, inner_steps=1)
    thread = threading.Thread(target=rivals_meta.work, args=(its, build, tiny, {}))
    thread.start()
    losses = ours.recv()
    assert losses[0] > losses[1] > losses[2] > 0
    for message in (True, True, False):
        ours.send(message)
        assert ours.recv() > 0 or not message
    thread.join()


def test_plain_jax_takes_the_same_steps(tiny):
    support, query = rivals_meta.tasks(tiny)
    for inner_steps in (1, 3):
        steps = [build(tiny, inner_steps) for build in (rivals_meta.ours, rivals_meta.jax_by_hand)]
        losses = np.array([[step(support, query) for step in steps] for _ in range(4)])
        np.testing.assert_allclose(losses[:, 0], losses[:, 1], rtol=1e-5)
        assert len(np.unique(losses[:, 0])) == 4


def test_ratios_are_those_of_the_turns():
    found = {
        "ours": Result([], [1.0, 2.0, 3.0], 2**20),
        "slow": Result([], [2.0, 4.0, 30.0], 2**22),
    }
    assert rows(found, "ours") == ["ours | 2e+03 | 1.00 | 1 |", "slow | 4e+03 | 2.00 | 4 |"]


@pytest.mark.parametrize(
    ("command", "option"), [(options_meta, "--size"), (rivals_meta, "--sizes")]
)
def test_what_nothing_can_be_timed_with_is_refused(capsys, command, option):
    assert exit_code(module(command), option, "foo") == 2
    told = capsys.readouterr().err
    assert all(word in told for word in (option, "'foo'", "'sine'", "'wide'"))
    for name in ("--inner-steps", "--rounds"):
        refuses(capsys, module(command), name, 0, words=(name, "1 or more"))
