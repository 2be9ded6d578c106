"""Held-out seeds, on which a customised model is judged before its audience is used.

Axes: H held-out seeds, X excluded users.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from metaheac_jax.data.campaign import Campaign, UserIds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.methods import Method
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress, silent

HELD_OUT = 0.2  # fraction of the seeds, and of the non-seeds
#: Number of seeds needed to hold 10 of them out. Seeds from feedback do not count.
MIN_SEEDS_TO_HOLD_OUT = 50
#: A training campaign with equal attributes and this fraction of a campaign's seeds counts as it.
SHARED = 0.1
#: The reason why there are no users to compare held-out seeds with.
NOBODY_NEW = "all users are seeds, learned from or excluded; use a larger pool"


@dataclass(frozen=True)
class HeldOutSeeds:
    """Seeds that a customised model has not seen.

    Attributes:
      users: (H,) user indices.
      model: model customised to the campaign's remaining seeds and non-seeds.
      seen: see `seen_in_training`.
      excluded: (X,) indices of users who may be in no audience.
    """

    users: np.ndarray
    model: Customised
    seen: str | None = None
    excluded: np.ndarray | tuple[()] = ()

    @property
    def left_out(self) -> np.ndarray:
        """Ascending indices of the users who are not in the pool: all seeds and excluded users."""
        seeds = np.concatenate([self.users, self.model.campaign.seeds])
        return np.union1d(seeds, self.excluded).astype(int)

    @property
    def known(self) -> np.ndarray:
        """Ascending indices of `left_out` and of the non-seeds that the model has learned from.

        All other users count as new to the model, as held-out seeds are. Non-seeds in
        `Campaign.found` are not in ``known``: they had high scores, so without them the other users
        would not represent the pool.
        """
        campaign = self.model.campaign
        learned = campaign.users[(campaign.labels == 0) & ~campaign.is_found]
        return np.union1d(self.left_out, learned)

    @property
    def num_given_seeds(self) -> int:
        """Number of seeds without those from feedback, held out or not."""
        return len(self.users) + self.model.campaign.num_given_seeds

    @property
    def num_seeds(self) -> int:
        """Number of seeds of the campaign, held out or not."""
        return len(self.users) + len(self.model.campaign.seeds)


def num_able_seeds(data: Dataset, campaign: Campaign, exclude: UserIds = ()) -> int:
    """Number of seeds that `hold_out_seeds` chooses from; it needs `MIN_SEEDS_TO_HOLD_OUT`."""
    able, _ = _able(data, campaign, exclude)
    return int(able[campaign.labels == 1].sum())


def hold_out_seeds(
    method: Method,
    general: General,
    data: Dataset,
    campaign: Campaign,
    *,
    exclude: UserIds = (),
    seed: int = 0,
    progress: Progress = silent,
) -> HeldOutSeeds:
    """Holds out a random fifth of the seeds and customises the general model to the rest.

    A fifth of the non-seeds is held out too, so that there are users to compare with who are
    equally new to the model. Users who are in `Campaign.found` or excluded are never held out, and
    do not count towards these fifths.

    Args:
      method: the method that trained the general model.
      general: the general model.
      data: the data with the campaign's users.
      campaign: the campaign with its seeds and non-seeds.
      exclude: ids of users who may be in no audience, besides `Campaign.excluded_ids`; unknown ids
        are ignored.
      seed: random seed for the choice of held-out seeds and non-seeds, and for customising.
      progress: receives the number of campaigns done.

    Raises:
      InputError: there are too few seeds to hold some out, or as in `Dataset.find_users` and
        `Method.customise`.
      Diverged: weights or scores are not finite.
    """
    check_whole("seed", seed, 0)
    able, ids = _able(data, campaign, exclude)
    seeds = np.flatnonzero((campaign.labels == 1) & able)
    if len(seeds) < MIN_SEEDS_TO_HOLD_OUT:
        besides = " besides those from feedback" if len(campaign.found) else ""
        raise InputError(
            f"{campaign.name}: {len(seeds)} seeds{besides}, too few to hold a fifth out; "
            f"{MIN_SEEDS_TO_HOLD_OUT} are needed"
        )
    excluded = data.find_users(ids)
    excluded = np.sort(excluded[excluded >= 0])
    rng = np.random.Generator(np.random.Philox(seed))
    held, others = (
        rng.choice(of, int(HELD_OUT * len(of)), replace=False)
        for of in (seeds, np.flatnonzero((campaign.labels == 0) & able))
    )
    rest = np.setdiff1d(np.arange(len(campaign.users)), [*held, *others])
    kept = campaign.pick(rest)
    [model] = method.customise(general, data, [kept], seed=seed, progress=progress)
    seen = seen_in_training(general, data, campaign)
    return HeldOutSeeds(campaign.users[held], model, seen, excluded)


def _able(data: Dataset, campaign: Campaign, exclude: UserIds) -> tuple[np.ndarray, np.ndarray]:
    """(n,) bool, whose examples may be held out; then the ids of excluded users."""
    ids = np.union1d(*(data.checked_ids(own) for own in (exclude, campaign.excluded_ids)))
    return ~(campaign.is_found | np.isin(data.user_ids[campaign.users], ids)), ids


def seen_in_training(general: General, data: Dataset, campaign: Campaign) -> str | None:
    """Why results on held-out seeds of a campaign are too good, in words; None for no known reason.

    They are too good if the general model was trained on these seeds or selected by them. This is
    assumed if a campaign of the model is in the data with the same attributes and a fraction
    `SHARED` of the campaign's seeds, or was added to the data with the same attributes. If only the
    ids are the same, compared as text, the words say that it may be so.

    Args:
      general: the general model.
      data: the data that it was trained on, or later data.
      campaign: a campaign that is not in the data.
    """
    seen = {str(own) for own in (*general.campaigns, *general.held_out)}
    why = ""
    alike = (data.campaign_rows == campaign.rows).all(axis=1)
    for c in np.flatnonzero(alike).tolist():
        own = data.campaign(c)
        shared = int(np.isin(campaign.seeds, own.seeds).sum())
        if str(own.id) in seen and shared >= SHARED * len(campaign.seeds):
            why = f"{own.id}, which has the same attributes and {shared:,} of these seeds"
    if (name := added_like(general, data, campaign)) is not None:
        why = f"{name}, which has the same attributes"
    if why:
        return (
            f"the general model has seen campaign {why}; its results on held-out seeds are too "
            "good, since these seeds are not new to it"
        )
    if campaign.id is not None and str(campaign.id) in seen:
        return (
            f"the general model has seen a campaign with the same name, {campaign.id}; if it has "
            "these seeds, results on held-out seeds are too good"
        )
    return None


def added_like(general: General, data: Dataset, campaign: Campaign) -> int | str | None:
    """The campaign of `General.added` with the same attributes as ``campaign``, if there is one."""
    for own in general.added:
        rows = data.vocabulary.encode_attributes(data.schema, own.attributes)
        if np.array_equal(rows, campaign.rows) and _same_values(own.attributes, campaign):
            return own.name
    return None


def _same_values(attributes: Mapping[str, Any], campaign: Campaign) -> bool:
    """Whether a campaign has these raw values too, or its raw values are not known.

    Several values may share a table row: those in one bucket, with one hash, or unknown.
    """
    own = campaign.attributes
    return own is None or all(
        value == own[name] or str(value) == str(own[name]) for name, value in attributes.items()
    )
