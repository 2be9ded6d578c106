"""The meta-step for others: what it imports, and sets of different sizes."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from quadratics import ALPHA

from metaheac_jax import meta
from metaheac_jax.meta import Masked, build_meta_gradient, build_meta_step, inner_update

IMPORT = """
import sys, jax, optax
before = set(sys.modules)
from metaheac_jax.meta import build_meta_step
new = {name.partition(".")[0] for name in set(sys.modules) - before}
heavy = {"flax", "orbax", "polars", "scipy", "sklearn", "matplotlib", "tyro"} & set(sys.modules)
print(sorted(new - set(sys.stdlib_module_names)), sorted(heavy))
"""


def test_the_door_imports_jax_and_optax_alone():
    path = {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", IMPORT], env=os.environ | path, capture_output=True, text=True
    )
    assert ran.stdout == "['jax', 'metaheac_jax'] []\n", ran.stderr
    assert all(hasattr(meta, name) for name in meta.__all__)


def per_example(w, batch):
    """(B,) losses 1/2 s (w - a)^2 of (B,) slopes and centres."""
    slope, centre = batch
    return 0.5 * slope * (w - centre) ** 2


def uneven(counts, size=4):
    """Sets of ``counts`` examples: each alone, and all padded with garbage, with a mask."""
    rng = np.random.default_rng(sum(counts))
    padded = tuple(rng.uniform(0.5, 2, (2, len(counts), size)))
    sets = [tuple(part[c, :count] for part in padded) for c, count in enumerate(counts)]
    return sets, Masked(padded, (np.arange(size) < np.array(counts)[:, None]).astype(float))


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("chunk", [1, 3, "all"])
@pytest.mark.parametrize("queries", [(4, 1, 2), (4, 0, 2)])
def test_padding_changes_nothing(x64, reduction, chunk, queries):
    """(1 - alpha S) Q (w' - q), with means S, Q over a task's own examples; a task without a query
    is none of those that are averaged."""
    (supports, support), (of_query, query) = uneven((1, 3, 4)), uneven(queries)
    gradient = build_meta_gradient(
        per_example, inner_learning_rate=ALPHA, campaigns_per_chunk=chunk, reduction=reduction
    )
    ours, info = jax.jit(gradient)(1.5, support, query)
    slopes, losses = [], []
    for (s, a), (q, b) in zip(supports, of_query, strict=True):
        adapted = 1.5 - ALPHA * np.mean(s * (1.5 - a))
        if len(q):
            slopes.append((1 - ALPHA * np.mean(s)) * np.mean(q * (adapted - b)))
            losses.append(np.mean(0.5 * q * (adapted - b) ** 2))
    total = np.mean if reduction == "mean" else np.sum
    np.testing.assert_allclose(ours, total(slopes), rtol=1e-12)
    np.testing.assert_allclose(info.loss, total(losses), rtol=1e-12)
    np.testing.assert_allclose(info.query_loss[np.array(queries) > 0], losses, rtol=1e-12)


def test_a_mask_goes_with_all_options(x64):
    """Steps, an optimiser and aux, with a mask of ones as without a mask."""
    _, masked = uneven((4, 4))
    plain = lambda w, batch: (per_example(w, batch).mean(), batch[0])  # noqa: E731
    each = lambda w, batch: (per_example(w, batch), batch[0])  # noqa: E731
    options = {"inner_optimizer": optax.sgd(ALPHA, momentum=0.5), "inner_steps": 2}
    build = partial(build_meta_gradient, has_aux=True, **options)
    with_mask = jax.jit(build(each))(1.5, masked, masked)
    without = jax.jit(build(plain))(1.5, masked.examples, masked.examples)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-12), with_mask, without)


def test_a_step_and_an_update_take_a_mask(x64):
    (supports, support), (_, query) = uneven((1, 3)), uneven((2, 4))
    init, step = build_meta_step(per_example, optax.sgd(0.1), inner_learning_rate=ALPHA)
    state, info = step(init(jnp.asarray(1.5)), support, query)
    assert state.params < 1.5 + info.loss
    own = jax.tree.map(lambda leaf: leaf[0], support)
    update = jax.jit(partial(inner_update, per_example, inner_learning_rate=ALPHA))
    adapted = update(1.5, own).params
    slope, centre = supports[0]
    np.testing.assert_allclose(adapted, 1.5 - ALPHA * (slope * (1.5 - centre))[0], rtol=1e-12)


def test_a_mask_needs_a_loss_per_example():
    _, masked = uneven((4, 4))
    gradient = build_meta_gradient(
        lambda w, batch: per_example(w, batch).mean(), inner_learning_rate=ALPHA
    )
    with pytest.raises(ValueError, match=r"a value per example, shape \(4,\), got \(\)"):
        gradient(jnp.asarray(1.5), masked, masked)
