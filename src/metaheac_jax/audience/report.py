"""Everything that is known of an audience."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.audience.audience import Audience
from metaheac_jax.audience.curve import SizePoint, size_curve
from metaheac_jax.audience.held_out import MIN_SEEDS, hold_out_seeds
from metaheac_jax.audience.importance import Importances, field_importance
from metaheac_jax.audience.overlap import Overlap, audience_overlap
from metaheac_jax.audience.seed_check import SeedCheck
from metaheac_jax.audience.traits import (
    SensitiveShare,
    Trait,
    audience_traits,
    sensitive_shares,
)
from metaheac_jax.data.campaign import Campaign, UserIds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Method
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent


@dataclass(frozen=True)
class AudienceReport:
    """What a report of an audience tells.

    Attributes:
      title: of the report.
      data: name of the data set.
      size, num_candidates: number of users in the audience, and of those who could be.
      num_users: of the data.
      edge: score of the last user of the audience.
      seeds: the seeds check.
      curve: by size; empty where there are too few seeds, besides those from feedback, to hold some
        out.
      used: fields by importance; None in the same case.
      seen: what to know about these two, see `held_out.seen_in_training`.
      base_rate: of the curve.
      traits: values by lift.
      sensitive: values of sensitive fields.
      overlap: with earlier audiences, this one first; None without any.
    """

    title: str
    data: str
    size: int
    num_candidates: int
    num_users: int
    edge: float
    seeds: SeedCheck
    curve: Sequence[SizePoint]
    used: Importances | None
    seen: str | None
    base_rate: float
    traits: Sequence[Trait]
    sensitive: Sequence[SensitiveShare]
    overlap: Overlap | None


def describe_audience(
    method: Method,
    general: General,
    data: Dataset,
    campaign: Campaign,
    audience: Audience,
    *,
    title: str,
    seeds: SeedCheck,
    exclude: UserIds = (),
    include_seeds: bool = False,
    earlier: Mapping[str, Collection[int] | Collection[str]] | None = None,
    base_rate: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> AudienceReport:
    """Measures what a report tells; the pool is scored once more, by a model without some seeds.

    Args:
      method: that trained the general model.
      general: the general model.
      data: the pool.
      campaign: that the general model was customised to; seeds in its ``found`` are not held out.
      audience: the audience of that.
      title: of the report.
      seeds: the seeds check.
      exclude: ids of users who could not be in the audience; the pool is without them.
      include_seeds: whether seeds could; otherwise traits and sensitive fields are compared with a
        pool without them.
      earlier: user ids of earlier audiences, by name.
      base_rate: as in `curve.size_curve`.
      seed: of held-out seeds, customising and shuffling.
      progress: receives what is under way.

    Raises:
      InputError: as `hold_out_seeds` and `size_curve`, or an audience has no users.
    """
    if not len(audience):
        raise InputError(f"{title}: it has no users; ask for better ranks")
    curve, used, seen = [], None, None
    base_rate = base_rate or len(campaign.seeds) / data.num_users
    if (campaign.labels[~campaign.is_found] == 1).sum() >= MIN_SEEDS:
        held_out = hold_out_seeds(
            method, general, data, campaign, exclude=exclude, seed=seed, progress=progress
        )
        curve = size_curve(held_out, data, base_rate=base_rate, progress=progress)
        used = field_importance(held_out, data, seed=seed, progress=progress)
        seen = held_out.seen
    ids = audience.user_ids.tolist()
    overlap = None
    if earlier:
        overlap = audience_overlap(["this audience", *earlier], [ids, *earlier.values()])
    seed_ids = data.user_ids[campaign.seeds]
    left_out = data.checked_ids(exclude)
    if not include_seeds:
        left_out = np.concatenate([left_out, data.checked_ids(seed_ids)])
    return AudienceReport(
        title=title,
        data=data.name,
        size=len(audience),
        num_candidates=audience.num_candidates,
        num_users=data.num_users,
        edge=float(audience.scores[-1]),
        seeds=seeds,
        curve=curve,
        used=used,
        seen=seen,
        base_rate=base_rate,
        traits=audience_traits(data, ids, seed_ids, exclude=left_out),
        sensitive=sensitive_shares(data, ids, exclude=left_out),
        overlap=overlap,
    )
