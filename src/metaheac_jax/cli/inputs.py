"""What several commands read: a campaign with some of its seeds held out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metaheac_jax.audience.held_out import HeldOutSeeds, hold_out_seeds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.methods import method_of
from metaheac_jax.model import load
from metaheac_jax.progress import Progress


def open_held_out(
    model: Path,
    data: Dataset,
    seeds: list[int] | list[str],
    attributes: Mapping[str, Any],
    *,
    seed: int,
    progress: Progress,
) -> HeldOutSeeds:
    """A new campaign's general model customised without some of its seeds, and these.

    Args:
      model: folder of the general model.
      data: has the users.
      seeds: user ids.
      attributes: of the campaign.
      seed: of the non-seeds, the held-out seeds and customising.
      progress: receives what is under way.

    Raises:
      InputError: as `model.load`, `Dataset.new_campaign` and `hold_out_seeds`.
    """
    general = load(model, progress=progress)
    general.check_data(data)
    campaign = data.new_campaign(seeds, attributes, seed=seed)
    method = method_of(general)
    return hold_out_seeds(method, general, data, campaign, seed=seed, progress=progress)
