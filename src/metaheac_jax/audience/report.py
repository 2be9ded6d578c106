"""A report on an audience: everything that is known about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from metaheac_jax.audience.audience import Audience
from metaheac_jax.audience.curve import SizePoint, seed_rate, size_curve
from metaheac_jax.audience.held_out_seeds import (
    MIN_SEEDS_TO_HOLD_OUT,
    hold_out_seeds,
    num_able_seeds,
)
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
    """The content of a report on an audience.

    Attributes:
      title: title of the report.
      data: name of the data set.
      size, num_candidates: number of users in the audience, and of candidates for it.
      num_users: number of users of the data.
      edge: score of the last user of the audience.
      seeds: the seeds check.
      curve: one point per size; empty if too few seeds are neither from feedback nor excluded to
        hold some out.
      used: fields by importance; None in the same case.
      seen: why these two are too good, or None; see `held_out_seeds.seen_in_training`.
      base_rate: base rate that the curve assumes.
      traits: values of fields by lift.
      sensitive: values of sensitive fields.
      overlap: overlap with other audiences, this one first; None if none was given.
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
    shown: UserIds = (),
    include_seeds: bool = False,
    others: Mapping[str, UserIds] | None = None,
    base_rate: float | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> AudienceReport:
    """Measures what a report shows; scores the pool again with a model that lacks some seeds.

    Args:
      method: the method that trained the general model.
      general: the general model.
      data: the pool.
      campaign: the campaign of the audience; seeds in its ``found`` are not held out.
      audience: the audience.
      title: title of the report.
      seeds: the seeds check.
      exclude: ids of users who could not be in the audience; they are not in the pool.
      shown: ids of users who could not be in the audience since they were shown the campaign, or
        are left out of this audience alone: they are in the pool in which held-out seeds are
        ranked, but not in that of traits and of sensitive fields.
      include_seeds: whether seeds could be in the audience; otherwise traits and sensitive fields
        are compared with a pool without seeds.
      others: user ids of other audiences, by name.
      base_rate: as in `curve.size_curve`.
      seed: random seed for held-out seeds, customising and shuffling.
      progress: receives the progress of each part.

    Raises:
      InputError: as in `hold_out_seeds` and `size_curve`, or an audience has no users.
      Diverged: weights or scores are not finite.
    """
    if not len(audience):
        raise InputError(f"{title}: the audience has no users; choose better ranks")
    curve, used, seen = [], None, None
    if base_rate is None:
        base_rate = seed_rate(campaign.num_given_seeds, data)
    if num_able_seeds(data, campaign, exclude) >= MIN_SEEDS_TO_HOLD_OUT:
        held_out = hold_out_seeds(
            method, general, data, campaign, exclude=exclude, seed=seed, progress=progress
        )
        curve = size_curve(held_out, data, base_rate=base_rate, progress=progress)
        used = field_importance(held_out, data, seed=seed, progress=progress)
        seen = held_out.seen
    overlap = None
    if others:
        compared = map(data.checked_ids, [audience.ids, *others.values()])
        overlap = audience_overlap(["this audience", *others], list(compared))
    seed_ids = data.user_ids[campaign.seeds]
    left_out = np.union1d(data.checked_ids(exclude), data.checked_ids(shown))
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
        traits=audience_traits(data, audience.ids, seed_ids, exclude=left_out),
        sensitive=sensitive_shares(data, audience.ids, exclude=left_out),
        overlap=overlap,
    )
