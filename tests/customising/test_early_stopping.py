"""Which model of a campaign is kept when adapting stops early."""

import itertools
from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from linear_network import LogisticRegression
from toy import dataset, distinct_users

from metaheac_jax.customising.customiser import Customiser
from metaheac_jax.model import Weights

DATA = dataset(users=100, campaigns=1, per_campaign=60, pool=5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 3), st.lists(st.integers(0, 5), min_size=1, max_size=12))
def test_the_first_model_with_the_least_loss_is_kept(patience, losses):
    """Models are the numbers of their epochs; the one before the first epoch is 0."""
    losses = np.array(losses, float)
    losses[losses == 5] = np.nan  # is never better, and hides nothing
    customise = Customiser(LogisticRegression(), DATA.layout)
    epoch, told = itertools.count(), iter(losses)
    customise._steps = SimpleNamespace(
        start=lambda *_: (),
        adapt=lambda *_: (),
        current=lambda *_: {"network": np.float32(next(epoch)), "table": np.zeros((9, 1))},
        summed_loss=lambda *_: next(told),
    )
    weights = Weights(None, np.zeros((DATA.num_rows, 1)))
    examples = distinct_users(DATA, 40)
    epochs = len(losses) - 1
    (kept,) = customise(weights, [examples], epochs=epochs, patience=patience)
    known = np.where(np.isnan(losses), np.inf, losses)
    best = 0
    for number, loss in enumerate(known):  # the first of equal ones
        if number - best > patience:
            break
        best = number if loss < known[best] else best
    assert kept.network == best
    assert next(epoch) == min(len(losses), best + patience + 1)
