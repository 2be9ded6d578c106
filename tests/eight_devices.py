"""Trainings on meshes of eight devices, into which one CPU is split before jax starts.

`python tests/eight_devices.py FOLDER` prints the results that `training/test_sharding.py` checks,
as JSON; `python tests/eight_devices.py FOLDER METHOD` prints those of trainings by a method.
"""

import json
import sys
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from linear_network import LogisticRegression
from quadratics import MEMORY, member, quadratic, quadratic_campaigns, with_memory
from toy import dataset

from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.methods import configured, fit
from metaheac_jax.model import initialise
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.loop import Training, train
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta_step import build_meta_gradient, build_meta_step
from metaheac_jax.training.sharding import Placement, device_mesh
from metaheac_jax.training.step import RowStep, build_row_step

DATA, NETWORK, CAMPAIGNS, STEPS = dataset(), LogisticRegression(), 5, 50
MESHES = ((1, 8), (2, 4), (4, 2), (8, 1))
draw = cache(
    CampaignSampler(DATA, np.arange(8), seed=0, campaigns_per_step=CAMPAIGNS, batch_size=16)
)


def weights():
    key, rows = jax.random.key(0), DATA.num_rows
    return jax.device_get(initialise(NETWORK, key, DATA.layout, num_rows=rows, width=1))


def parts(reduction):
    """Gradient and optimisers."""
    gradient = build_meta_gradient(
        build_loss(NETWORK, DATA.layout),
        inner_learning_rate=0.5,
        select=select_rows,
        reduction=reduction,
    )
    return gradient, optax.adam(1e-2), table_adam(1e-2)


@cache
def one_device(reduction="mean"):
    return build_row_step(*parts(reduction))


def placement(mesh):
    campaign, row = mesh
    return Placement(device_mesh(campaign=campaign, row=row), CAMPAIGNS, DATA.num_rows)


@cache
def on_mesh(mesh, reduction="mean"):
    """A step on a mesh that takes a sampler's batches."""
    place = placement(mesh)
    init, step = build_row_step(*parts(reduction), placement=place, reduction=reduction)
    return RowStep(init, lambda state, *batch: step(state, *place.place_batch(batch)))


def trained(step, steps=STEPS):
    """The state, and the loss of each step."""
    state, losses = step.init(*jax.tree.map(np.copy, weights())), []
    for number in range(steps):
        state, info = step.step(state, *draw(number))
        losses.append(info.loss)
    return state, np.array(losses)


def difference(ours, theirs):
    """The largest absolute difference, over all arrays of two trees."""
    gap = lambda a, b: float(np.abs(np.asarray(a, float) - np.asarray(b, float)).max())  # noqa: E731
    return float(np.max(jax.tree.leaves(jax.tree.map(gap, ours, theirs))))


def fractions(state):
    """The largest fraction of each split array's bytes that one device holds."""
    arrays = state.table[:-1]
    most = [max(shard.data.nbytes for shard in array.addressable_shards) for array in arrays]
    return [held / array.nbytes for held, array in zip(most, arrays, strict=True)]


def meshes():
    """Per mesh: the difference to one device, and the largest fractions that a device holds."""
    expected = trained(one_device())
    found = {}
    for mesh in MESHES:
        state, losses = trained(on_mesh(mesh))
        ours = placement(mesh).fetch(state), losses
        found[str(mesh)] = {"difference": difference(ours, expected), "holds": fractions(state)}
    moved = difference(expected[0].table.table, weights().table)
    return {"meshes": found, "moved": moved}


def summed():
    """The difference to one device if the meta-loss is a sum over campaigns."""
    mesh, steps = (2, 4), 5
    state, losses = trained(on_mesh(mesh, "sum"), steps)
    return difference((placement(mesh).fetch(state), losses), trained(one_device("sum"), steps))


def noted(draw):
    """A list, and a sampler that draws as ``draw`` does and adds each step to the list."""
    drawn = []
    return drawn, lambda number: drawn.append(number) or draw(number)


def moved_on(folder):
    """A training that moves from one device to four, to eight, and back to one.

    Returns its differences to one device, and the first step that is drawn each time.
    """
    state, first = None, []
    for mesh, steps in ((None, 20), ((2, 2), 30), ((2, 4), 40), ((2, 2), 50)):
        step = one_device() if mesh is None else on_mesh(mesh)
        saved = Checkpoints(folder / "checkpoints")
        start = step.init(*jax.tree.map(np.copy, weights()))
        drawn, draw_noted = noted(draw)
        training = Training(step, start, draw_noted, num_steps=steps)
        state, _ = train(training, checkpoints=saved)
        first.append(min(drawn))
    restored = []
    for mesh in (None, (4, 2), (1, 8)):
        like = (one_device() if mesh is None else on_mesh(mesh)).init(*weights())
        place = None if mesh is None else placement(mesh)
        checkpoints = Checkpoints(folder / "checkpoints")
        again = checkpoints.restore({"state": like})[0]["state"]
        restored.append(again if place is None else place.fetch(again))
    expected, _ = trained(one_device())
    ours = placement((2, 2)).fetch(state), *restored
    return [max(difference(own, expected) for own in ours), first]


def not_finite():
    """Whether a step that is not finite on some devices is taken, and how much it changes."""
    mesh = (2, 4)
    place, step = placement(mesh), on_mesh(mesh)
    before = place.fetch(step.init(*weights()))
    before.table.nu[draw(0).rows[3]] = np.inf
    state, info = step.step(place.place(before), *draw(0))
    after = place.fetch(state)
    keep = before.table.nu < np.inf
    return [
        bool(info.taken),
        difference(after.table.table, before.table.table),
        difference(after.table.nu[keep], before.table.nu[keep]),
        int(after.table.count),
    ]


def mapped():
    """The relative difference to one device if ``jax.shard_map`` divides the campaigns.

    Each device has one campaign, and the state after its steps.
    """
    w, *sides = quadratic_campaigns(8)
    options = {"has_state": True, "has_aux": True, "inner_learning_rate": 0.01, "inner_steps": 2}
    gradient = build_meta_gradient(with_memory, reduction="sum", **options)

    def gradient_and_mean(w, *sides):
        ours, info = gradient(w, *sides, model_state=MEMORY)
        return ours, info.model_state["mean"][None]

    mesh = placement((8, 1)).mesh
    specs = {"in_specs": (P(), P("campaign"), P("campaign")), "out_specs": (P(), P("campaign"))}
    ours = jax.jit(jax.shard_map(gradient_and_mean, mesh=mesh, **specs))(w, *sides)
    one = jax.jit(gradient_and_mean)
    alone = [one(w, *member(sides, slice(c, c + 1))) for c in range(8)]
    expected = one(w, *sides)[0], jnp.concatenate([mean for _, mean in alone])
    return difference(jax.tree.map(jnp.divide, ours, expected), jax.tree.map(jnp.ones_like, ours))


def replicated():
    """How often a step is compiled for parameters that are on all devices of a mesh."""
    mesh = placement((8, 1)).mesh
    w, *sides = quadratic_campaigns(8)
    w = jax.device_put(w, NamedSharding(mesh, P()))
    sides = jax.device_put(sides, NamedSharding(mesh, P("campaign")))
    init, step = build_meta_step(quadratic, optax.adam(0.01), inner_learning_rate=0.01)
    state = init(w)
    for _ in range(3):
        state, _ = step(state, *sides)
    return step.best._cache_size()


def by_method(name):
    """The difference to one device of training by a method, and the table's largest moment."""
    sizes = {"width": 2, "batch_size": 171, "campaigns_per_step": 3, "offline_epochs": 1}
    if name != "mlp-pretraining":  # plain training takes any number of groups of examples
        sizes["campaigns_per_step"] = 4
    method = configured(name, **sizes, offline_patience=None)
    if name == "solved-head":
        # The weights must not move: where gradients are as small as rounding, Adam would make full
        # steps of it. The moments of Adam show what the gradients were.
        method = method.changed(outer_learning_rate=0.0)
    one, four = (fit(DATA, method, mesh=mesh) for mesh in (None, device_mesh(campaign=2, row=2)))
    ours, theirs = ((dict(made.state), made.optimizer) for made in (four, one))
    return [difference(ours, theirs), float(np.abs(one.optimizer["table"]["mu"]).max())]


if __name__ == "__main__":
    jax.config.update("jax_disable_most_optimizations", True)
    folder, *methods = sys.argv[1:]
    results = {name: by_method(name) for name in methods} or meshes() | {
        "summed": summed(),
        "moved on": moved_on(Path(folder)),
        "not finite": not_finite(),
        "mapped": mapped(),
        "replicated": replicated(),
        "mlp-pretraining": by_method("mlp-pretraining"),
    }
    print(json.dumps(results))
