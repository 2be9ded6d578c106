"""Campaigns that are held out of training, to see when a general model stops improving.

A general model is as good as what it becomes: it is customised to half of each held-out campaign's
examples, and judged on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from metaheac_jax.data.batches import check_indices, generator
from metaheac_jax.data.campaign import Campaign, plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.model import General, Scorer
from metaheac_jax.ranking import auc
from metaheac_jax.training.loop import Quality

FRACTION = 0.1  # of the training campaigns that is held out
MIN_CAMPAIGNS = 3  # that are held out
# Of a campaign, at most this many examples are customised on and judged, so that a judgement takes
# seconds in any world.
MAX_ADAPTED = 2048
MAX_JUDGED = 4096


def hold_out_campaigns(
    data: Dataset,
    campaigns: np.ndarray,
    seed: int,
    *,
    fraction: float = FRACTION,
    start: General | None = None,
    keep: Sequence[int] | np.ndarray = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Divides training campaigns, by index, into those to train on and those held out.

    A fraction is held out. If training goes on from a model, those that were held out of its
    training come first, and then no more than that fraction of the campaigns that are new to it.
    Where it held out none, at most half of the new ones come before campaigns that it was trained
    on.

    Args:
      data: has the campaigns.
      campaigns: their indices.
      seed: of the draw.
      fraction: of the campaigns that is held out.
      start: the model that training goes on from.
      keep: indices of campaigns that are not held out in any case.

    Raises:
      InputError: too few campaigns have the two seeds and two non-seeds that can be halved.
    """
    seeds = data.stage1.positives[campaigns]
    others = data.stage1.counts[campaigns] - seeds
    able = campaigns[(seeds >= 2) & (others >= 2) & ~np.isin(campaigns, keep)]
    able = generator(seed, 0).permutation(able)
    count = max(MIN_CAMPAIGNS, math.ceil(fraction * len(campaigns)))
    if len(keep):
        check_indices(data, np.asarray(keep))
    if start is not None:
        able, again, new = _going_on(data, able, start)
        count = min(count, max(MIN_CAMPAIGNS, again + int(fraction * new))) if again else count
    if len(able) < count or len(campaigns) <= count:
        raise InputError(
            f"{data.where}: {count} campaigns are held out, each with two seeds and two "
            f"non-seeds, and {len(able)} of {len(campaigns)} campaigns have them; add campaigns, "
            "or train for a fixed number of epochs"
        )
    held = able[:count]
    return np.setdiff1d(campaigns, held), np.sort(held)


def _going_on(data: Dataset, able: np.ndarray, start: General) -> tuple[np.ndarray, int, int]:
    """Campaigns in the order in which they are held out after a model.

    Also how many of them were held out of its training, and how many are new.
    """
    # As text, since ids become text when one of them is no number.
    ids = [str(plain_id(data.campaign_ids[c])) for c in able]
    before, trained = ({str(key) for key in keys} for keys in (start.held_out, start.campaigns))
    again = np.array([key in before for key in ids], bool)
    known = np.array([key in trained for key in ids], bool) & ~again
    new = able[~again & ~known]
    half = len(new) // 2
    order = np.concatenate([able[again], new[:half], able[known], new[half:]])
    return order, int(again.sum()), len(new)


@dataclass(frozen=True)
class HeldOut:
    """A held-out campaign in two halves.

    Attributes:
      campaign: with the half that it is customised on.
      users: index of each user of the other half.
      labels: of these users.
    """

    campaign: Campaign
    users: np.ndarray
    labels: np.ndarray


def halve(data: Dataset, index: int, seed: int) -> HeldOut:
    """Halves the seeds and the non-seeds of a campaign at random, up to the maximum of each half.

    A half above its maximum is thinned evenly, so its fraction of seeds stays; one seed and one
    non-seed stay at least.

    Raises:
      InputError: the campaign has fewer than two seeds or two non-seeds.
    """
    campaign, rng = data.campaign(index), generator(seed, index)
    halves: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
    total = len(campaign.labels) / 2
    for kind in (1, 0):
        of_kind = rng.permutation(np.flatnonzero(campaign.labels == kind))
        if len(of_kind) < 2:
            raise InputError(
                f"{data.where}: {campaign.name}: has {int(campaign.labels.sum())} seeds and "
                f"{int((campaign.labels == 0).sum())} non-seeds; a held-out campaign is halved, so "
                "it needs two of each; leave it out"
            )
        middle = len(of_kind) // 2
        parts = of_kind[:middle], of_kind[middle:]
        for half, part, most in zip(halves, parts, (MAX_ADAPTED, MAX_JUDGED), strict=True):
            half.append(part[: max(1, round(len(part) * min(1.0, most / total)))])
    adapted, judged = map(np.concatenate, halves)
    return HeldOut(
        replace(campaign, users=campaign.users[adapted], labels=campaign.labels[adapted]),
        campaign.users[judged],
        campaign.labels[judged],
    )


def judge_models(
    customise: Callable[[Sequence[Campaign]], Sequence[Scorer]],
    data: Dataset,
    held_out: Sequence[HeldOut],
) -> list[Quality]:
    """Customises a general model to held-out campaigns and judges each on its other half.

    Raises:
      Diverged: a score is not a number.
    """
    judged = []
    models = customise([held.campaign for held in held_out])
    for held, model in zip(held_out, models, strict=True):
        odds = np.asarray(model(data.user_rows[held.users]), np.float64)
        if np.isnan(odds).any():
            raise Diverged(f"{held.campaign.name}, held out: a score is not a number")
        loss = np.mean(np.logaddexp(0, odds) - held.labels * odds)
        judged.append(Quality(auc(odds, held.labels), float(loss)))
    return judged


def mean_quality(judged: Sequence[Quality]) -> Quality:
    """The means over campaigns."""
    return Quality(*np.mean(judged, axis=0).tolist())
