"""The meta-learning examples run, and learn."""

import runpy

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
