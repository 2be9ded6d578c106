"""Where a general model puts the campaigns: what Figure 3 (c, d) of the paper is drawn from."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from experiments.methods.chunks import over_chunks
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.sampling import campaign_examples
from metaheac_jax.fields import field_vectors
from metaheac_jax.network import MetaHeac
from metaheac_jax.offline import General

#: The campaign field by which the figure is coloured: the first of these that the schema has.
CATEGORIES = ("adCategoryId", "genre1")


def campaign_space(
    dataset: Dataset, campaigns: np.ndarray, network: MetaHeac, general: General
) -> dict[str, Any]:
    """Mean representation r and mean critics' gate over the seeds of every campaign.

    Args:
      dataset: the seeds are the positives of stage 1.
      campaigns: (C,) indices; each has seeds.
      network: with m critics and a representation of width h.
      general: its general model.

    Returns:
      Plain data, a campaign an entry: ``campaign`` its key, ``category`` (None where the schema has
      none of `CATEGORIES`), ``representation`` (C, h) and ``gate`` (C, m).
    """
    slots = dataset.schema.user_slots

    @jax.jit
    def outputs(general: General, campaign: Array, user: Array) -> Array:
        fields = general.table.at[campaign].get(mode="fill", fill_value=0)
        users = field_vectors(general.table, user, slots)
        output: Any = network.apply(general.network, users, fields)
        return jnp.concatenate([output.representation, jnp.exp(output.critic_log_weights)], axis=-1)

    representation, gate = [], []
    for campaign in campaigns:
        members = campaign_examples(dataset, campaign)
        found = over_chunks(
            partial(outputs, general, members.campaign), members.user[members.label == 1], chunk=512
        )
        mean = found.mean(axis=0, dtype=np.float64).round(5)
        width = network.widths[-1]
        representation.append(mean[:width].tolist())
        gate.append(mean[width:].tolist())
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
