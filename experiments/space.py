"""Where a general model puts the campaigns: what Figure 3 (c, d) of the paper is drawn from."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sampling import campaign_examples
from metaheac_jax.network import Network
from metaheac_jax.offline import General
from metaheac_jax.rows import field_vectors

#: The campaign field by which the figure is coloured: the first of these that the schema has.
CATEGORIES = ("adCategoryId", "genre1")
_CHUNK = 512  # seeds at a time


def campaign_space(
    dataset: Dataset, campaigns: np.ndarray, network: Network, general: General
) -> dict[str, Any]:
    """Mean representation r and mean critics' gate over the seeds of every campaign.

    Args:
      dataset: the seeds are the positives of stage 1.
      campaigns: (C,) indices; each has seeds.
      network: one with m critics and a representation of width h.
      general: its general model.

    Returns:
      Plain data, a campaign an entry: ``campaign`` its key, ``category`` (None where the schema has
      none of `CATEGORIES`), ``representation`` (C, h) and ``gate`` (C, m).
    """
    slots = dataset.schema.user_slots

    @jax.jit
    def sums(general: General, user: Array, campaign: Array, weight: Array) -> tuple[Array, Array]:
        fields = general.table.at[campaign].get(mode="fill", fill_value=0)
        users = field_vectors(general.table, user, slots)
        output = network.apply(general.network, users, fields)
        return weight @ output.representation, weight @ jnp.exp(output.critic_log_weights)

    representation, gate = [], []
    for campaign in campaigns:
        members = campaign_examples(dataset, campaign)
        seeds = members.user[members.label == 1]
        total = [np.zeros(()), np.zeros(())]
        for first in range(0, len(seeds), _CHUNK):
            part = seeds[first : first + _CHUNK]
            padding = (0, _CHUNK - len(part))
            user = np.pad(part, (padding, (0, 0)), constant_values=dataset.rows)
            weight = np.pad(np.ones(len(part), np.float32), padding)
            found = sums(general, user, members.campaign, weight)
            total = [a + np.asarray(b, np.float64) for a, b in zip(total, found, strict=True)]
        representation.append((total[0] / len(seeds)).round(5).tolist())
        gate.append((total[1] / len(seeds)).round(5).tolist())
    return {
        "campaign": dataset.campaign_key[campaigns].tolist(),
        "category": _categories(dataset, campaigns),
        "representation": representation,
        "gate": gate,
    }


def _categories(dataset: Dataset, campaigns: np.ndarray) -> list[str] | None:
    names = [field.name for field in dataset.schema.campaign]
    for name in CATEGORIES:
        if name in names:
            place = len(dataset.schema.user) + names.index(name)
            rows = dataset.campaign_rows[campaigns, names.index(name)]
            values = dataset.vocabulary.values[place]
            at = rows - dataset.vocabulary.offsets[place]
            return [str(values[i]) if 0 <= i < len(values) else "" for i in at]
    return None
