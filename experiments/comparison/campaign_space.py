"""Campaigns in the representation of a general model, for Figure 3 (c, d) of the paper."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.customise.score import over_chunks
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.model import Weights
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.table.layout import Ids

#: The first of these campaign fields that the schema has determines the colour.
CATEGORIES = ("adCategoryId", "genre1")


def campaign_space(
    dataset: Dataset, campaigns: np.ndarray, network: MetaHeac, weights: Weights
) -> dict[str, Any]:
    """Mean representation r and mean gate of the critics over the seeds of each campaign.

    Args:
      dataset: the seeds are the positives of stage 1.
      campaigns: (C,) indices of campaigns with seeds.
      network: has m critics and a representation of width h.
      weights: of the general model.

    Returns:
      Plain data with one entry per campaign: ``campaign`` (ids), ``category`` (None if the schema
      has none of `CATEGORIES`), ``representation`` (C, h) and ``gate`` (C, m).
    """
    layout = dataset.layout

    @jax.jit
    def outputs(weights: Weights, campaign: Array, user: Array) -> Array:
        inputs = layout.inputs(weights.table, Ids(user, campaign))
        output: Any = network.apply(weights.network, *inputs)
        return jnp.concatenate([output.representation, jnp.exp(output.critic_log_weights)], axis=-1)

    representation, gate = [], []
    for campaign in campaigns:
        examples = campaign_examples(dataset, dataset.campaign(campaign))
        seeds = examples.ids.user[examples.label == 1]
        per_seed = over_chunks(partial(outputs, weights, examples.ids.campaign), seeds, chunk=512)
        mean = per_seed.mean(axis=0, dtype=np.float64).round(5)
        width = network.widths[-1]
        representation.append(mean[:width].tolist())
        gate.append(mean[width:].tolist())
    return {
        "campaign": [plain_id(value) for value in dataset.campaign_ids[campaigns]],
        "category": _categories(dataset, campaigns),
        "representation": representation,
        "gate": gate,
    }


def _categories(dataset: Dataset, campaigns: np.ndarray) -> list[str] | None:
    names = [field.name for field in dataset.schema.campaign]
    for name in CATEGORIES:
        if name in names:
            field = len(dataset.schema.user) + names.index(name)
            rows = dataset.campaign_rows[campaigns, names.index(name)]
            values = dataset.vocabulary.values[field]
            positions = rows - dataset.vocabulary.offsets[field]
            return [str(values[i]) if 0 <= i < len(values) else "" for i in positions]
    return None
