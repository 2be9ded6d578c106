"""Steps on several devices equal steps on one. The devices are made of one CPU, in a process apart,
since jax must be told before it starts.
"""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from toy import dataset

from metaheac_jax.data.batches import CampaignSampler
from metaheac_jax.training.sharding import campaign_mesh, split_campaigns

PROGRAM = """
import jax, numpy as np, optax
from toy import dataset
from metaheac_jax.data.batches import CampaignSampler
from metaheac_jax.model import initialise
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.table.adam import table_adam
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient
from metaheac_jax.training.sharding import campaign_mesh, replicate, split_campaigns
from metaheac_jax.training.step import build_row_step

data, network = dataset(), MetaHeac(num_experts=3, num_critics=2, widths=(8, 8), gate_width=8)
gradient = build_meta_gradient(
    build_loss(network, data.layout), inner_learning_rate=0.05, campaigns_per_chunk="all",
    select=select_rows,
)
step = build_row_step(gradient, optax.adam(1e-2), table_adam(1e-2))
general = initialise(network, jax.random.key(0), data.layout, num_rows=data.num_rows, width=4)
draw = CampaignSampler(data, np.arange(8), seed=0, campaigns_per_step=4, batch_size=32)
mesh = campaign_mesh()
assert mesh.size == 2
one = step.init(*jax.tree.map(np.array, general))
two = replicate(step.init(*jax.tree.map(np.array, general)), mesh)
for number in range(3):
    one, info = step.step(one, *draw(number))
    batch = split_campaigns(draw(number), mesh)
    assert batch.support.ids.user.addressable_shards[0].data.shape[0] == 2
    two, spread = step.step(two, *batch)
    np.testing.assert_allclose(info.query_loss, spread.query_loss, atol=1e-5)
assert two.table.table.is_fully_replicated and len(two.table.table.devices()) == 2
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), one, two)
print("equal")
"""


def test_two_devices_do_what_one_does():
    tests = Path(__file__).parents[1]
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={"XLA_FLAGS": "--xla_force_host_platform_device_count=2", "PYTHONPATH": str(tests)},
        capture_output=True,
        text=True,
    )
    assert ran.stdout == "equal\n", ran.stderr


def test_devices_that_do_not_divide_the_campaigns_are_refused():
    batch = CampaignSampler(dataset(), np.arange(8), seed=0, campaigns_per_step=3, batch_size=16)(0)

    class Pair:
        size = 2

    with pytest.raises(ValueError, match="2 devices do not divide 3 campaigns"):
        split_campaigns(batch, Pair())
    assert campaign_mesh().size == 1
