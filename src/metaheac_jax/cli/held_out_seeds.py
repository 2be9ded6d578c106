"""A campaign with some of its seeds held out, as several commands need it."""

from __future__ import annotations

from pathlib import Path

from metaheac_jax.audience.held_out_seeds import HeldOutSeeds, hold_out_seeds
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.cli.campaigns import find_campaign
from metaheac_jax.data.campaign import UserIds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import about
from metaheac_jax.methods import method_of
from metaheac_jax.model import load
from metaheac_jax.progress import Progress


def open_held_out(
    model: Path,
    data: Dataset,
    seeds: Path,
    attributes: Path,
    *,
    exclude: UserIds = (),
    seed: int,
    progress: Progress,
) -> tuple[HeldOutSeeds, SeedCheck]:
    """Customises a general model to a new campaign without some of its seeds, which are held out.

    Args:
      model: folder of the general model.
      data: has the users.
      seeds: file with the seeds' user ids.
      attributes: file with the campaign's attributes.
      exclude: ids of users who are not learned from and not in the pool.
      seed: seed of the non-seeds, the held-out seeds and customising.
      progress: receives the progress of loading and customising.

    Returns:
      The model with the held-out seeds, and the check of all seeds.

    Raises:
      InputError: as `model.load`, `campaigns.find_campaign` and `hold_out_seeds`.
    """
    general = load(model, progress=progress)
    general.check_data(data)
    campaign, check = find_campaign(data, seeds, attributes, exclude=exclude, seed=seed)
    method = method_of(general)
    with about(seeds):
        held_out = hold_out_seeds(method, general, data, campaign, seed=seed, progress=progress)
    return held_out, check
