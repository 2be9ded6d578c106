"""Every network's loss, gradient and scores, with YNNPACK's reductions on a CPU and without.

It takes minutes: `python -m pytest -m long tests/networks/test_reduction_flag.py`. As a script it
writes the arrays of one process: `python tests/networks/test_reduction_flag.py FILE`.
"""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_network import LogisticRegression

from metaheac_jax.backend import LEVEL_FLAG, REDUCE_FLAG
from metaheac_jax.data.batches import Batch
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.networks.solved_head import SolvedHead
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient

ROWS, FIELDS = 6000, 2
#: Slots of the user fields, and values of the first of them: mixed, or a single list of few values.
SCHEMAS = {"mixed": Layout((1, 3, 1, 4), (5, 20), FIELDS), "list": Layout((4,), (6,), FIELDS)}
WIDTHS, BATCHES, EXPERTS = (8, 32, 64), (64, 1000, 4096), (3, 8)
#: Schema, k and B: besides all of them, more rows than elsewhere, and the other schema.
SIZES = [("mixed", *size) for size in itertools.product(WIDTHS, BATCHES)]
SIZES += [("mixed", 8, 33_000), ("list", 8, 1000), ("list", 64, 4096)]
TOLERANCE = 1e-5
ROUNDING = 1e-8  # of the terms of a sum; where they cancel, the sum may be no larger


def batch_of(schema, size, seed):
    """(B, S) users whose small fields have their own rows, (N,) campaign fields, labels."""
    slots, small = SCHEMAS[schema].user_slots, SCHEMAS[schema].small_fields
    rng, columns, first = np.random.default_rng(seed), [], 0
    for field, count in itertools.zip_longest(slots, small):
        values = count or ROWS - sum(small)
        start = first if count else sum(small)
        columns.append(start + rng.integers(0, values, (size, field)))
        first += count or 0
    user = np.concatenate(columns, axis=1)
    user[rng.random(user.shape) < 0.1] = ROWS  # padding
    label = (rng.random(size) < 0.3).astype(np.float32)
    weight = (rng.random(size) < 0.9).astype(np.float32)
    campaign = rng.integers(sum(small), ROWS, FIELDS)
    return Batch(Ids(user.astype(np.int32), campaign.astype(np.int32)), label, weight)


def scores_by(network, layout):
    """``scores(params, batch)`` as `PoolScorer` computes them."""

    def scores(params, batch):
        output = network.apply(params["network"], *layout.inputs(params["table"], batch.ids))
        return output.log_p - output.log_not_p

    return scores


def cases(schema, width, num_experts):
    """(name, network, initial parameters, loss) of every network; those without experts once."""
    layout = SCHEMAS[schema]
    heac = MetaHeac(num_experts=num_experts, num_critics=3)
    networks = {
        "heac": heac,
        "mean": MetaHeac(num_experts=num_experts, num_critics=3, mixture="mean"),
    }
    if num_experts == EXPERTS[0]:
        networks |= {"mlp": MLP(), "solved head": SolvedHead()}
        if width == WIDTHS[0]:
            networks["lr"] = LogisticRegression()
    for name, network in networks.items():
        params = initial(network, 1 if name == "lr" else width, layout.num_user_fields)
        yield name, network, params, build_loss(network, layout)


def initial(network, width, fields):
    """Parameters of the network, drawn, and a table."""
    key = jax.random.key(0)
    users, campaign = jnp.zeros((2, fields, width)), jnp.zeros((FIELDS, width))
    table = np.random.default_rng(0).normal(size=(ROWS, width)).astype(np.float32)
    return {"network": network.init(key, users, campaign), "table": table}


def arrays():
    """(name, array) of every case: loss, gradient, scores; the second-order meta-gradient."""
    for (schema, width, size), num_experts in itertools.product(SIZES, EXPERTS):
        batch, other = (batch_of(schema, size, seed) for seed in (0, 1))
        for case, network, params, loss in cases(schema, width, num_experts):
            name = f"{case}, {schema}, k {width}, B {size}, n {num_experts}"
            value, grads = jax.jit(jax.value_and_grad(loss))(params, batch)
            yield f"{name}: loss", value
            yield from named(f"{name}: gradient", grads)
            yield f"{name}: scores", jax.jit(scores_by(network, SCHEMAS[schema]))(params, batch)
            if case == "heac" and size <= 1000:
                sides = (jax.tree.map(lambda leaf: leaf[None], side) for side in (batch, other))
                meta = build_meta_gradient(loss, inner_learning_rate=0.1)
                yield from named(f"{name}: meta-gradient", jax.jit(meta)(params, *sides))
        jax.clear_caches()  # a process has a limited number of mapped sections


def named(name, tree):
    """(name and path, array) of every leaf."""
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        yield f"{name}{jax.tree_util.keystr(path)}", leaf


def mismatches(ours, theirs):
    """Lines for arrays that differ by more than `TOLERANCE` of their scale and `ROUNDING`."""
    assert ours.keys() == theirs.keys()
    lines = []
    for name in ours:
        a, b = ours[name], theirs[name]
        scale = np.abs(a).max(initial=0)
        error = np.abs(a - b).max(initial=0)
        if not error <= TOLERANCE * scale + ROUNDING:  # NaN is a mismatch
            lines.append(f"{name} {a.shape}: off by {error:.3g} of {scale:.3g}")
    return lines


@pytest.mark.slow
def test_no_number_of_a_network_depends_on_the_reduction_flag(tmp_path):
    workers, files = [], [tmp_path / "off.npz", tmp_path / "on.npz"]
    for file, flags in zip(files, (LEVEL_FLAG, f"{LEVEL_FLAG} {REDUCE_FLAG}"), strict=True):
        environment = os.environ | {
            "XLA_FLAGS": flags,
            "JAX_PLATFORMS": "cpu",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        workers.append(subprocess.Popen([sys.executable, __file__, file], env=environment))
    assert [worker.wait() for worker in workers] == [0, 0]
    off, on = (dict(np.load(file)) for file in files)
    assert len(on) > 1000
    lines = mismatches(on, off)
    assert not lines, "\n".join(lines)


if __name__ == "__main__":
    np.savez(Path(sys.argv[1]), **{name: np.asarray(array) for name, array in arrays()})
