"""The meta-learning examples run, and learn."""

import runpy

import pytest


@pytest.mark.parametrize(
    "name", ["with_dicts", "with_linen", "with_nnx", "with_equinox", "reptile"]
)
def test_the_meta_loss_falls(name):
    if name == "with_equinox":
        pytest.importorskip("equinox")
    losses = runpy.run_module(f"experiments.examples.{name}")["losses"]
    assert losses[-1] < 0.9 * losses[0]
