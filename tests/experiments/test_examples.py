"""The meta-learning examples run, and learn."""

import runpy

import jax
import numpy as np
import pytest

from experiments.examples import sine


@pytest.mark.slow
@pytest.mark.parametrize("name", ["with_linen", "with_nnx", "with_equinox", "reptile"])
def test_the_meta_loss_falls(name):
    if name == "with_equinox":
        pytest.importorskip("equinox")
    losses = runpy.run_module(f"experiments.examples.{name}")["losses"]
    assert losses[-1] < 0.9 * losses[0]


@pytest.mark.slow
def test_five_points_of_a_sine_wave_are_enough():
    params = sine.train(sine.Options())
    assert sine.errors(params, shots=5, steps=0, seed=0)[0] > 1.5
    assert sine.errors(params, shots=5, steps=1, seed=0)[0] < 0.5
    assert sine.errors(params, shots=5, steps=10, seed=0)[0] < 0.25


def test_new_sine_waves_are_not_drawn_like_those_of_training(monkeypatch):
    drawn, draw = [], sine.draw
    noted = lambda key, *sizes: drawn.append(jax.random.key_data(key)) or draw(key, *sizes)  # noqa: E731
    monkeypatch.setattr(sine, "draw", noted)
    monkeypatch.setattr(sine, "NUM_TEST_TASKS", 2)
    with jax.disable_jit():  # the keys are then known
        params = sine.train(sine.Options(iterations=2))
        sine.errors(params, shots=5, steps=0, seed=0)
    assert len(np.unique(drawn, axis=0)) == 3
