"""A campaign with some of its seeds held out, as several commands need it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaheac_jax.audience.campaign_folder import is_campaign, read_campaign
from metaheac_jax.audience.held_out_seeds import HeldOutSeeds, hold_out_seeds
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.cli.campaigns import (
    Request,
    check_readable,
    find_campaign,
    read_attributes,
    unseen_notes,
)
from metaheac_jax.cli.found_campaigns import find_campaigns
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, Refusals, about
from metaheac_jax.methods import method_of
from metaheac_jax.model import load
from metaheac_jax.progress import Progress


class OpenedCampaign(NamedTuple):
    """A campaign whose model has not learned from some of its seeds.

    Attributes:
      held_out: the model, and the held-out seeds.
      check: the check of all seeds.
      seed_ids: ids of all seeds.
      excluded_ids: ids of users who may be in none of its audiences.
      notes: what the user should know about the campaign.
    """

    held_out: HeldOutSeeds
    check: SeedCheck
    seed_ids: np.ndarray
    excluded_ids: np.ndarray
    notes: list[str]


def check_campaign_files(
    command: str, model: Path, seeds: Path | None, attributes: Path | None
) -> None:
    """Refuses what `open_held_out` cannot open, before any work.

    Raises:
      InputError: a file cannot be read, a campaign folder is given with files of seeds or
        attributes, or a general model without them.
    """
    if is_campaign(model):
        if seeds is not None or attributes is not None:
            raise InputError(
                f"{model}: is a campaign, which has its seeds and attributes; omit --seeds and "
                "--attributes"
            )
        return
    if seeds is None or attributes is None:
        raise InputError(
            f"{command}: give --seeds and --attributes, or a campaign from metaheac customise "
            "instead of the model"
        )
    read_attributes(attributes)
    check_readable(seeds)


def open_held_out(
    model: Path,
    data: Dataset,
    seeds: Path | None,
    attributes: Path | None,
    *,
    exclude: np.ndarray,
    seed: int,
    progress: Progress,
) -> OpenedCampaign:
    """Customises a general model to a campaign without some of its seeds, which are held out.

    Args:
      model: folder of the general model, or of a campaign that was customised from one.
      data: has the users.
      seeds: file with the seeds' user ids; None for a campaign folder.
      attributes: file with the campaign's attributes; None for a campaign folder.
      exclude: ids of users who are not learned from and not in the pool.
      seed: seed of the non-seeds, the held-out seeds and customising.
      progress: receives the progress of loading and customising.

    Raises:
      InputError: as `model.load`, `campaigns.find_campaign`, `found_campaigns.find_campaigns` and
        `hold_out_seeds`.
    """
    if seeds is None or attributes is None:
        saved = read_campaign(model, progress=progress)
        general, refusals = saved.load_general(progress), Refusals()
        general.check_data(data)
        found = find_campaigns(
            [Request(model, None, saved=saved)],
            general,
            data,
            exclude=exclude,
            exclude_shown=False,
            least_seeds=None,
            learns_again=True,
            seed=seed,
            refusals=refusals,
            progress=progress,
        )
        refusals.check()
        [own] = found
        campaign, check, notes = own.campaign, own.check, own.notes
    else:
        general, notes = load(model, progress=progress), ()
        general.check_data(data)
        campaign, check = find_campaign(data, seeds, attributes, exclude=exclude, seed=seed)
    with about(seeds or model):
        held_out = hold_out_seeds(
            method_of(general),
            general,
            data,
            campaign,
            exclude=exclude,
            seed=seed,
            progress=progress,
        )
    told = [*notes, *unseen_notes(held_out.model), *([held_out.seen] if held_out.seen else [])]
    excluded_ids = np.union1d(data.checked_ids(campaign.excluded_ids), exclude)
    seed_ids = data.user_ids[campaign.seeds]
    return OpenedCampaign(held_out, check, seed_ids, excluded_ids, told)
