"""Requested campaigns with their users found in the data: new ones, and campaign folders."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metaheac_jax.audience.campaign_folder import SavedCampaign
from metaheac_jax.audience.seed_check import LEAST_SEEDS, SeedCheck
from metaheac_jax.cli.campaigns import (
    Request,
    feedback_notes,
    has_text,
    read_seeds,
    require_seeds,
    seed_notes,
)
from metaheac_jax.data.campaign import Campaign, CampaignBrief
from metaheac_jax.data.campaign_record import is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, Refusals, about
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress


class Found(NamedTuple):
    """A requested campaign with its users found in the data.

    Attributes:
      request: what was given for it.
      campaign: its examples and attributes.
      check: the check of its seeds.
      model: the model of its folder; None for a new campaign.
      notes: what the user should know about its seeds and its folder.
    """

    request: Request
    campaign: Campaign
    check: SeedCheck
    model: Customised | None = None
    notes: Sequence[str] = ()

    def named(self) -> AbstractContextManager[None]:
        """A context in which errors name the campaign."""
        return about(self.campaign.name) if self.request.name is None else self.request.named()


def find_campaigns(
    requests: Sequence[Request],
    general: General,
    data: Dataset,
    *,
    exclude: np.ndarray,
    exclude_shown: bool,
    least_seeds: int | None,
    learns_again: bool,
    seed: int,
    refusals: Refusals,
    progress: Progress,
) -> list[Found]:
    """Finds the campaigns of requests in the data, but for those that are refused.

    A campaign is refused if one of its files or their content is wrong, or if its folder does not
    suit ``general``, ``data`` or the options.

    Args:
      requests: one per campaign; those of campaign folders have the content of the folder.
      general: the model that those in folders were customised from.
      data: the data with the campaigns' users.
      exclude: ids of users who may not be in an audience, and of whom new campaigns do not learn.
      exclude_shown: whether to leave out the users in a folder's feedback, too.
      least_seeds: minimum number of seeds that are users of the data; None means `LEAST_SEEDS` for
        new campaigns, and no minimum for folders.
      learns_again: whether the campaigns are customised again, without some of their seeds; a
        folder is then refused if the data has none of its seeds, or if its model has not learned
        from all feedback.
      seed: random seed for the random non-seeds of new campaigns.
      refusals: collects the errors, by the names of the campaigns.
      progress: receives the progress of finding the users.
    """
    new = [request for request in requests if request.saved is None]
    least = LEAST_SEEDS if least_seeds is None else least_seeds
    found = _find_new(new, data, exclude, least, seed, refusals, progress)
    data = _remember(requests, data, refusals, progress)
    for request in requests:
        if request.saved is None or request.name in refusals:
            continue
        with refusals.collected(request.name), request.named():
            own = _find_saved(request, request.saved, general, data, exclude, exclude_shown)
            if exclude_shown:
                own = _without_shown(own, request.saved, data)
            require_seeds(own.check, least_seeds or 0, request.source)
            if learns_again:
                _check_can_learn(request.source, request.saved, own, general, data)
            found[request.name] = own
    return [found[request.name] for request in requests if request.name in found]


def _remember(
    requests: Sequence[Request], data: Dataset, refusals: Refusals, progress: Progress
) -> Dataset:
    """The data that has found the users of all folders in one pass over the user ids."""
    users = []
    for request in requests:
        if request.saved is not None:
            with refusals.collected(request.name), request.named():
                users.append(request.saved.with_ids_of(data).user_ids)
    return data.remember(np.concatenate(users), progress=progress) if users else data


def _check_can_learn(
    folder: Path, saved: SavedCampaign, found: Found, general: General, data: Dataset
) -> None:
    """Refuses a folder whose campaign cannot be customised again as its model was."""
    if not len(found.campaign.seeds):
        raise InputError(
            f"{folder}: none of its seeds is a user of {data.where}, and some have to be held out; "
            "use data with the campaign's users"
        )
    if not saved.is_up_to_date(general):
        raise InputError(
            f"{folder}: its feedback has changed since its model learned from it; metaheac update "
            "it first"
        )


def _find_new(
    requests: Sequence[Request],
    data: Dataset,
    exclude: np.ndarray,
    least_seeds: int,
    seed: int,
    refusals: Refusals,
    progress: Progress,
) -> dict[str | None, Found]:
    """Finds new campaigns, all in one pass over the user ids; by name."""
    given = dict[int | str | None, tuple[Request, np.ndarray]]()
    for request in requests:
        with refusals.collected(request.name), request.named():
            given[request.name] = request, read_seeds(request.source, text=has_text(data))
    briefs = [
        CampaignBrief(ids, request.attributes or {}, request.name)
        for request, ids in given.values()
    ]
    if not briefs:
        return {}
    found = dict[str | None, Found]()
    for campaign in data.new_campaigns(
        briefs, exclude=exclude, seed=seed, refusals=refusals, progress=progress
    ):
        request, ids = given[campaign.id]
        check = SeedCheck.of(campaign, ids)
        with refusals.collected(request.name), request.named():
            require_seeds(check, least_seeds, request.source)
            notes = seed_notes(campaign.labels)
            found[request.name] = Found(request, campaign, check, notes=notes)
    return found


def _find_saved(
    request: Request,
    saved: SavedCampaign,
    general: General,
    data: Dataset,
    exclude: np.ndarray,
    exclude_shown: bool,
) -> Found:
    """Finds the campaign of a folder; refuses one whose seeds or converts are to be left out."""
    folder, model = request.source, saved.customised(general, data)
    campaign = model.campaign
    ids = data.user_ids[campaign.users]
    left_out = is_among(ids, exclude)
    seeds = ids[left_out & (campaign.labels == 1)]
    shown = data.checked_ids(saved.feedback.user_ids) if exclude_shown else ids[:0]
    if len(np.setdiff1d(seeds, shown)):
        raise InputError(
            f"--exclude: {folder} was customised to users who are to be left out; "
            "if they opted out, metaheac update it with --exclude; to leave them out of one "
            "audience alone, use --suppress of metaheac expand (for users in its feedback: "
            "--exclude-shown)"
        )
    learned = campaign if saved.data_digest == data.digest else saved.examples
    notes = seed_notes(learned.labels)
    if not len(campaign.seeds):
        notes.append(
            f"none of its {len(model.seed_ids):,} seeds is a user of {data.where}; if one should "
            "be, check that the ids are those of the prepared users"
        )
    notes += feedback_notes(folder, saved, general)
    gone = np.intersect1d(data.checked_ids(campaign.unmatched), exclude)
    for count, who in (
        (left_out.sum() - len(seeds), f"non-seeds that {folder} learns from"),
        (len(seeds), f"seeds or converts that {folder} learns from"),
        (len(gone), f"seeds or converts of {folder} who are not in the data"),
    ):
        if count:
            notes.append(
                f"{count:,} of the excluded users are {who}; if they opted out, metaheac update it "
                "with --exclude"
            )
    check = SeedCheck.of_folder(campaign, saved.num_first_seeds)
    return Found(request, campaign, check, model, notes)


def _without_shown(found: Found, saved: SavedCampaign, data: Dataset) -> Found:
    """The campaign of a folder, whose model finds no users in the folder's feedback.

    Its ``campaign`` stays as it is: users who were shown it have high scores, so a pool without
    them is not one that held-out seeds can be compared with.
    """
    assert found.model is not None  # it has a folder
    shown = data.checked_ids(saved.feedback.user_ids)
    campaign = found.model.campaign
    excluded = np.union1d(data.checked_ids(campaign.excluded_ids), shown)
    model = replace(found.model, campaign=replace(campaign, excluded_ids=excluded))
    notes, known = list(found.notes), int((data.find_users(shown) >= 0).sum())
    if known:
        notes.append(f"{known:,} users who were shown the campaign are left out")
    return found._replace(model=model, notes=notes)
