"""Several devices: each adapts some of a step's campaigns; all of them hold the state.

The step is the same as on one device. Its inputs are placed on devices, and jit divides the work.
The only communication between devices is the sum of the campaigns' gradients.

>>> mesh = campaign_mesh()
>>> state = replicate(step.init(*general), mesh)
>>> state, info = step.step(state, *split_campaigns(batch, mesh))

The gradient must take all campaigns at once (``campaigns_per_chunk="all"``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaheac_jax.data.batches import CampaignBatch

_AXIS = "campaigns"


def campaign_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A one-dimensional mesh over the campaigns of a step; of all devices by default."""
    return Mesh(np.array(devices or jax.devices()), (_AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Places the arrays of a tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_campaigns(batch: CampaignBatch, mesh: Mesh) -> CampaignBatch:
    """Divides a meta-step's batch: each device holds support, query and rows of its campaigns.

    Raises:
      ValueError: the devices do not divide the campaigns.
    """
    num_campaigns = len(batch.own)
    if num_campaigns % mesh.size:
        raise ValueError(f"{mesh.size} devices do not divide {num_campaigns} campaigns")
    _, *per_campaign = batch
    placed = jax.device_put(per_campaign, NamedSharding(mesh, PartitionSpec(_AXIS)))
    return CampaignBatch(replicate(batch.rows, mesh), *placed)
