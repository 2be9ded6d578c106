"""A campaign whose seeds are held out in part, as several commands need it.

Axes: S seeds, E excluded users.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from metaheac_jax.audience.campaign_folder import is_campaign, read_campaign
from metaheac_jax.audience.held_out_seeds import HeldOutSeeds, hold_out_seeds
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.cli.campaigns import (
    Request,
    check_model_folder,
    check_readable,
    find_campaign,
    read_attributes,
    seed_notes,
    unseen_notes,
)
from metaheac_jax.cli.found_campaigns import find_campaigns
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.campaign_record import is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, Refusals, about
from metaheac_jax.methods import method_of
from metaheac_jax.model import General, load
from metaheac_jax.progress import Progress


def check_campaign_files(
    command: str, model: Path, seeds: Path | None, attributes: Path | None
) -> None:
    """Refuses what `open_campaign` cannot open, before any work.

    Raises:
      InputError: the content of a file cannot be read, the model is no folder, a campaign folder is
        given with files of seeds or attributes, or a general model without them.
      OSError: there is no such file.
    """
    check_model_folder(model)
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


@dataclass(frozen=True)
class OpenedCampaign:
    """A campaign and the general model that it is customised from.

    Attributes:
      source: the campaign's folder, or the file of its seeds.
      general: the general model.
      data: the data with the campaign's users.
      campaign: the campaign, without examples of excluded users.
      check: the check of its seeds.
      exclude: (E,) ids of users who may not be in an audience, besides `Campaign.excluded_ids`.
      notes: what the user should know about it.
    """

    source: Path
    general: General
    data: Dataset
    campaign: Campaign
    check: SeedCheck
    exclude: np.ndarray
    notes: list[str]

    @property
    def given_seeds(self) -> np.ndarray:
        """(S,) ids of its seeds, without those from feedback."""
        given = (self.campaign.labels == 1) & ~self.campaign.is_found
        return self.data.user_ids[self.campaign.users[given]]

    @property
    def converts(self) -> np.ndarray:
        """(S,) ids of its seeds from feedback."""
        found = (self.campaign.labels == 1) & self.campaign.is_found
        return self.data.user_ids[self.campaign.users[found]]

    @property
    def excluded_ids(self) -> np.ndarray:
        """(E,) ids of all users who may not be in an audience."""
        return np.union1d(self.data.checked_ids(self.campaign.excluded_ids), self.exclude)

    def hold_out(self, *, seed: int, progress: Progress) -> tuple[HeldOutSeeds, list[str]]:
        """Customises the general model without some of the seeds, and notes on the result.

        Args:
          seed: seed of the held-out seeds and of customising.
          progress: receives the progress of customising.

        Raises:
          InputError: as `hold_out_seeds`.
          Diverged: weights or scores are not finite.
        """
        method = method_of(self.general)
        with about(self.source):
            held_out = hold_out_seeds(
                method,
                self.general,
                self.data,
                self.campaign,
                exclude=self.exclude,
                seed=seed,
                progress=progress,
            )
        seen = [] if held_out.seen is None else [held_out.seen]
        return held_out, [*unseen_notes(held_out.model), *seen]


def open_campaign(
    model: Path,
    data: Dataset,
    seeds: Path | None,
    attributes: Path | None,
    *,
    exclude: np.ndarray,
    seed: int,
    progress: Progress,
) -> OpenedCampaign:
    """Opens a new campaign from its files, or one from its folder.

    Args:
      model: folder of the general model, or of a campaign that was customised from one.
      data: has the users.
      seeds: file with the seeds' user ids; None for a campaign folder.
      attributes: file with the campaign's attributes; None for a campaign folder.
      exclude: (E,) ids of users who are not learned from and not in the pool.
      seed: seed of the random non-seeds of a new campaign.
      progress: receives the progress of loading.

    Raises:
      InputError: as `model.load`, `campaigns.find_campaign`, `campaign_folder.read_campaign` and
        `found_campaigns.find_campaigns`.
    """
    if seeds is not None and attributes is not None:
        general = load(model, progress=progress)
        general.check_data(data)
        campaign, check = find_campaign(data, seeds, attributes, exclude=exclude, seed=seed)
        notes = seed_notes(campaign.labels)
        return OpenedCampaign(seeds, general, data, campaign, check, exclude, notes)
    data.check_one_row_per_user()
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
    learned = ~is_among(data.user_ids[own.campaign.users], exclude)
    campaign = own.campaign.pick(learned)
    if not (campaign.labels == 0).any():
        raise InputError(
            f"{model}: none of its non-seeds is left to learn from; exclude fewer users, or use "
            "data with more of the campaign's users"
        )
    return OpenedCampaign(model, general, data, campaign, own.check, exclude, [*own.notes])
