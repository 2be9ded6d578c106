"""Several devices: each adapts its share of a step's campaigns; the state is on all of them.

Nothing in the step changes. Its inputs are placed, and jit splits the work: campaigns are
independent until their gradients are summed, which is the one exchange between devices.

>>> mesh = campaign_mesh()
>>> state = replicate(step.init(*general), mesh)
>>> state, info = step.step(state, *split_campaigns(batch, mesh))

The gradient must take all campaigns at once (``campaigns_per_chunk=None``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metaheac_jax.data.sampling import CampaignBatch

_AXIS = "campaigns"


def campaign_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices, all of them by default, in a row along the campaigns of a step."""
    return Mesh(np.array(devices or jax.devices()), (_AXIS,))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """The arrays of a tree on every device."""
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def split_campaigns(batch: CampaignBatch, mesh: Mesh) -> CampaignBatch:
    """A meta-step's batch, each device holding its campaigns' support, query and own rows.

    Raises:
      ValueError: the devices do not divide the campaigns.
    """
    campaigns = len(batch.own)
    if campaigns % mesh.size:
        raise ValueError(f"{mesh.size} devices do not divide {campaigns} campaigns")
    _, *parts = batch
    placed = jax.device_put(parts, NamedSharding(mesh, PartitionSpec(_AXIS)))
    return CampaignBatch(replicate(batch.rows, mesh), *placed)
