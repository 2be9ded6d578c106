"""Parity with the authors' own program: the numbers it computed on a tiny case, float32, CPU."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from metaheac_jax.data.batches import Batch, stacked
from metaheac_jax.networks import MetaHeac
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.layout import Ids, Layout
from metaheac_jax.table.rows import RowIndex
from metaheac_jax.training.inner import inner_update
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient
from metaheac_jax.training.step import build_row_step, plain_gradient

OFFICIAL = np.load(Path(__file__).parent / "official_seed0.npz")
ONE, MANY, CAMPAIGN = (
    ("carrier", "LBS", "age"),
    ("interest1", "kw1", "topic1"),
    ("advertiserId", "productType"),
)
LAYOUT = Layout(user_slots=(1, 1, 1, 4, 3, 2), small_fields=(), num_campaign_fields=2)
SIZES = (4, 18, 6, 12, 41, 24, 7, 4)
OFFSETS = np.concatenate([[0], np.cumsum(SIZES)])
ROWS = OFFSETS[-1]
NETWORK = MetaHeac(num_experts=4, num_critics=3, widths=(12, 12), gate_width=12)
INNER, OUTER = float(OFFICIAL["inner_learning_rate"]), float(OFFICIAL["outer_learning_rate"])


def weights(group):
    """Our parameters of a model of the authors' program."""

    def every(form):
        """All arrays named ``form``, with 0, 1, 2, ... for its ``*``."""
        names = [f"{group}/{form.replace('*', str(number))}" for number in range(9)]
        return [OFFICIAL[name] for name in names if name in OFFICIAL.files]

    # Official linear weights are (out, in), one per expert or critic; ours are (in, ..., out).
    network = {
        "expert": {
            "kernel_0": np.stack([w.T for w in every("mlp.*.mlp.0.weight")], axis=1),
            "bias_0": np.stack(every("mlp.*.mlp.0.bias")),
            "kernel_1": np.stack([w.T for w in every("mlp.*.mlp.2.weight")]),
            "bias_1": np.stack(every("mlp.*.mlp.2.bias")),
        },
        "critic_kernel": np.concatenate(every("output_layer.*.weight")).T,
        "critic_bias": np.concatenate(every("output_layer.*.bias")),
    }
    gates = {"expert_gate": "attention_layer", "critic_gate": "output_attention_layer"}
    for ours, theirs in gates.items():
        layers = (("kernel", "bias"), ("choice_kernel", "choice_bias"))
        network[ours] = {}
        for number, (kernel, bias) in zip((0, 2), layers, strict=True):
            network[ours][kernel] = OFFICIAL[f"{group}/{theirs}.{number}.weight"].T
            network[ours][bias] = OFFICIAL[f"{group}/{theirs}.{number}.bias"]
    kinds = ("static", "dynamic", "ad")
    rows = [own for kind in kinds for own in every(f"embedding.{kind}_emb.embeddings.*.weight")]
    return {"network": {"params": network}, "table": np.concatenate(rows)}


def batch(part, task):
    column = lambda name: OFFICIAL[f"{part}/{task}/{name}"]  # noqa: E731
    user = []
    for field, name in enumerate(ONE + MANY):
        ids = column(name).reshape(24, -1) + OFFSETS[field]
        if name in MANY:
            used = np.arange(ids.shape[1]) < column(f"{name}_length")[:, None]
            ids = np.where(used, ids, ROWS)
        user.append(ids)
    campaign = [column(name)[0] + OFFSETS[6 + i] for i, name in enumerate(CAMPAIGN)]
    return Batch(
        Ids(np.concatenate(user, axis=1).astype(np.int32), np.array(campaign, np.int32)),
        label=column("label").astype(np.float32),
        weight=np.ones(24, np.float32),
    )


def batches(part):
    return stacked([batch(part, task) for task in range(3)])


LOSS = build_loss(NETWORK, LAYOUT)


@jax.jit
def predict(params, examples):
    inputs = LAYOUT.inputs(params["table"], examples.ids)
    return jnp.exp(NETWORK.apply(params["network"], *inputs).log_p)


@jax.jit
def adapt(params, support):
    return inner_update(LOSS, params, support, inner_learning_rate=INNER).params


def assert_close(ours, theirs, relative):
    """Within ``relative`` of the largest entry, leaf by leaf."""
    for (path, a), b in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree.leaves(theirs), strict=True
    ):
        assert a.shape == b.shape, path
        np.testing.assert_allclose(
            a, b, rtol=0, atol=relative * np.abs(b).max(), err_msg=jax.tree_util.keystr(path)
        )


@pytest.mark.parametrize("part", ["support", "query"])
@pytest.mark.parametrize("task", range(3))
def test_predictions(part, task):
    theirs = OFFICIAL[f"{part}/{task}/prediction"]
    ours = predict(weights("initial"), batch(part, task))
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("task", range(3))
def test_adapted_query_predictions(task):
    adapted = adapt(weights("initial"), batch("support", task))
    theirs = OFFICIAL[f"adapted/{task}/query_prediction"]
    np.testing.assert_allclose(predict(adapted, batch("query", task)), theirs, rtol=0, atol=1e-6)
    # The step is not a no-op that any prediction would pass.
    assert np.abs(theirs - OFFICIAL[f"query/{task}/prediction"]).max() > 1e-5


def test_meta_loss_and_meta_gradient():
    gradient = jax.jit(build_meta_gradient(LOSS, inner_learning_rate=INNER))
    gradient, info = gradient(weights("initial"), batches("support"), batches("query"))
    np.testing.assert_allclose(info.loss, OFFICIAL["meta_loss"], rtol=0, atol=1e-6)
    assert_close(gradient, weights("meta_gradient"), 1e-5)


def test_weights_after_one_outer_step_row_local():
    index, support, query = RowIndex(ROWS), batches("support"), batches("query")
    both = support.ids, query.ids
    rows, (own, other) = index.renumber(index.distinct(both), ROWS, both)
    support, query = support._replace(ids=own), query._replace(ids=other)
    init, step = build_row_step(
        build_meta_gradient(LOSS, inner_learning_rate=INNER), optax.adam(OUTER), table_adam(OUTER)
    )
    before, after = weights("initial"), weights("after_one_step")
    state, _ = step(init(before["network"], jnp.asarray(before["table"])), rows, support, query)
    # Adam's first step is the sign of the gradient, except where the gradient is about eps: there
    # float32 rounding of a gradient that is zero in theory decides, so those rows are left out.
    seen = np.abs(weights("meta_gradient")["table"]) > 1e-7
    assert seen.mean() > 0.5
    np.testing.assert_allclose(state.table.table[seen], after["table"][seen], rtol=0, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        state.network,
        after["network"],
    )


def test_weights_after_the_online_stage():
    """Fresh Adam, two passes over [support 0, query 0]; from the official weights before it."""
    before, after = weights("after_one_step"), weights("after_online")
    init, step = build_row_step(plain_gradient(LOSS), optax.adam(0.001), table_adam(0.001))
    state = init(before["network"], jnp.asarray(before["table"]))
    index = RowIndex(ROWS)
    for part in ("support", "query") * 2:
        examples = batch(part, 0)
        rows, ids = index.renumber(index.distinct(examples.ids), ROWS, examples.ids)
        state, _ = step(state, rows, examples._replace(ids=ids))
    ours = table_adam(0.001).flush(state.table).table
    np.testing.assert_allclose(ours, after["table"], rtol=0, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5),
        state.network,
        after["network"],
    )
    assert np.abs(after["table"] - before["table"]).max() > 1e-3
