"""The campaigns that ``metaheac expand`` finds audiences for: new ones, and campaign folders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from metaheac_jax.audience.campaign_folder import SavedCampaign
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.cli.campaigns import (
    Request,
    feedback_notes,
    has_text,
    read_user_ids,
    require_seeds,
)
from metaheac_jax.data.campaign import Campaign, CampaignBrief
from metaheac_jax.data.campaign_record import is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress


class Expanded(NamedTuple):
    """A campaign to find an audience for.

    Attributes:
      request: what was given for it.
      campaign: its examples and attributes.
      check: the check of its seeds.
      model: the model of a campaign folder; None for a new campaign.
      notes: what the user should know about a campaign folder.
    """

    request: Request
    campaign: Campaign
    check: SeedCheck
    model: Customised | None = None
    notes: Sequence[str] = ()


def find_new(
    requests: Sequence[Request],
    data: Dataset,
    *,
    exclude: np.ndarray,
    least_seeds: int,
    seed: int,
    progress: Progress,
) -> list[Expanded]:
    """New campaigns of a list.

    Args:
      requests: one per campaign, each with its attributes.
      data: the data with the campaigns' users.
      exclude: ids of users who are neither learned from nor in an audience.
      least_seeds: minimum number of seeds that are users of the data.
      seed: random seed for the random non-seeds.
      progress: receives the progress of finding the users.

    Raises:
      InputError: a file or its content is wrong; the message names the campaign.
    """
    seeds = [read_user_ids(request.source, text=has_text(data)) for request in requests]
    briefs = [
        CampaignBrief(ids, request.attributes or {}, request.name)
        for ids, request in zip(seeds, requests, strict=True)
    ]
    campaigns = data.new_campaigns(briefs, exclude=exclude, seed=seed, progress=progress)
    found = []
    for request, ids, campaign in zip(requests, seeds, campaigns, strict=True):
        check = SeedCheck.of(campaign, ids)
        with request.named():
            require_seeds(check, least_seeds, request.source)
        found.append(Expanded(request, campaign, check))
    return found


def of_folder(
    request: Request,
    saved: SavedCampaign,
    general: General,
    data: Dataset,
    *,
    exclude: np.ndarray,
    least_seeds: int,
    must_be_current: bool,
) -> Expanded:
    """The campaign of a folder, with its model.

    Args:
      request: names the folder.
      saved: the content of the folder.
      general: the model that it was customised from.
      data: the data with the pool's users.
      exclude: ids of users who may not be in the audience.
      least_seeds: minimum number of seeds that are users of the data.
      must_be_current: refuse a model that has not learned from all feedback.

    Raises:
      InputError: the folder does not suit ``general``, ``data`` or the options, or the model was
        customised to a seed or a convert who is to be left out.
    """
    folder, model = request.source, saved.customised(general, data)
    campaign = model.campaign
    check = SeedCheck.of(campaign, model.seed_ids)
    require_seeds(check, least_seeds, folder)
    learned = data.user_ids[campaign.users]
    left_out, is_seed = is_among(learned, exclude), campaign.labels == 1
    if (left_out & is_seed).any():
        raise InputError(
            f"--exclude: {folder} was customised to users who are to be left out; "
            "metaheac update it with --exclude"
        )
    if must_be_current and not saved.is_up_to_date(general):
        raise InputError(
            f"{folder}: its feedback has changed since its model learned from it; metaheac "
            "update it first"
        )
    notes = feedback_notes(folder, saved, general)
    if left_out.any():
        notes.append(
            f"{left_out.sum():,} of the excluded users are non-seeds that {folder} learns from; "
            "metaheac update it with --exclude to leave them out"
        )
    return Expanded(request, campaign, check, model, notes)
