"""An audience explained on one page: how many, how good, who they are, and why.

Axis: U users of the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from metaheac_jax.audience.curve import PERCENTS, SizePoint, size_curve
from metaheac_jax.audience.held_out import MIN_SEEDS, cross_fit
from metaheac_jax.audience.importance import Importance, field_importance
from metaheac_jax.audience.retrieve import expand, find_campaigns, pool_mask
from metaheac_jax.audience.traits import (
    FAIR,
    MIN_CELL,
    SensitiveShare,
    Trait,
    audience_traits,
    sensitive_shares,
)
from metaheac_jax.data.campaign import Campaign, UserIds
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.methods import method_of
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import percent_of

DEFAULT_PERCENT = 5.0  # size of an audience if none is given, in percent of the candidates
_WIDTH, _HEIGHT = 560, 220  # of the chart
_STEPS = (0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100)  # between ticks of the chart
_APART = 28  # between the chosen size's tick and others
_MORE, _LESS = 12, 6  # traits on the page: more and less common than in the pool


@dataclass(frozen=True)
class Explanation:
    """What is known about an audience.

    Attributes:
      campaign: name of the campaign.
      attributes: its attributes as text.
      data, model: what they were made from, for the page's head.
      date: day on which it was made, ISO 8601.
      size, num_candidates: number of users in the audience, and of candidates for it.
      is_default: whether the size was not given.
      num_users: number of users of the data.
      seeds: number of seeds that were learned from.
      seeds_of_audiences: those of them who converted after an audience.
      seeds_not_found: given seeds who are not users of the data.
      unknown: campaign fields whose value training has not seen.
      curve: a point per size; empty if there are fewer than `held_out.MIN_SEEDS` seeds.
      chosen: the point of this audience's size; None likewise.
      auc: AUC of the first fold's held-out seeds against other users; None likewise.
      fields: user fields by importance; empty likewise.
      traits: values of user fields, from the most to the least over-represented.
      sensitive: values of sensitive fields.
    """

    campaign: str
    attributes: Mapping[str, str]
    data: str
    model: str
    date: str
    size: int
    num_candidates: int
    is_default: bool
    num_users: int
    seeds: int
    seeds_of_audiences: int
    seeds_not_found: int
    unknown: Sequence[str]
    curve: Sequence[SizePoint]
    chosen: SizePoint | None
    auc: float | None
    fields: Sequence[Importance]
    traits: Sequence[Trait]
    sensitive: Sequence[SensitiveShare]

    @property
    def summary(self) -> str:
        """The audience in one sentence."""
        people = f"{self.size:,} of {self.num_candidates:,} people"
        if self.chosen is None:
            return f"{people}, who are most like {self.seeds:,} seeds."
        lift = self.chosen.lift
        return (
            f"{people}; expect {lift.value:.1f} times the average rate, {lift.low:.1f} to "
            f"{lift.high:.1f}."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self) | {"summary": self.summary}

    def html(self) -> str:
        """The page: one file, which loads and runs nothing."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("metaheac_jax", "audience"),
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        return environment.get_template("explanation.html.jinja").render(
            page=self,
            chart=None if self.chosen is None else _chart(self.curve, self.chosen),
            more=_common_first([own for own in self.traits if own.lift > 1], _MORE),
            less=_common_first([own for own in self.traits if own.lift < 1], _LESS),
            widest=max((abs(own.drop) for own in self.fields), default=0.0) or 1.0,
            min_seeds=MIN_SEEDS,
            min_cell=MIN_CELL,
            fair=FAIR,
            default_percent=DEFAULT_PERCENT,
        )


def explain(
    general: General,
    data: Dataset,
    campaign: Campaign | int | str,
    *,
    size: int | None = None,
    pool: UserIds | None = None,
    exclude: UserIds = (),
    seed: int = 0,
    progress: Progress = silent,
) -> Explanation:
    """Explains the audience that `retrieve.expand` returns for the same arguments.

    It customises and scores `FOLDS` times more, for the curve of sizes.

    Args:
      general, data, campaign, pool, seed: as in `retrieve.expand`.
      size: number of users; by default `DEFAULT_PERCENT` of the candidates.
      exclude: ids of users who are left out of this audience only. They are in the pool of the
        curve, where held-out seeds like them are, too, but not in that of traits.
      progress: receives the progress of each part.

    Raises:
      InputError: as in `retrieve.expand`, or nobody is left for the audience.
      Diverged: weights or scores are not finite.
    """
    if size is not None:
        check_whole("size", size, 1)
    in_pool = pool_mask(data, pool)
    data, [own] = find_campaigns(general, data, [campaign], pool=in_pool, seed=seed)
    audience = expand(
        general,
        data,
        own,
        size=size,
        percent=DEFAULT_PERCENT if size is None else None,
        pool=pool,
        exclude=exclude,
        seed=seed,
        progress=progress,
    )
    if not len(audience):
        raise InputError(f"{own.name}: nobody of the pool is left for its audience; use a larger")
    able = np.ones(data.num_users, bool) if in_pool is None else in_pool
    members, seeds = data.mask_of(audience.ids), np.zeros(data.num_users, bool)
    seeds[own.seeds] = True
    curve: list[SizePoint] = []
    chosen = used = None
    folds = cross_fit(general, data, own, pool=in_pool, seed=seed, progress=progress)
    if folds:
        count = int((able & ~seeds).sum())
        sizes = [max(1, percent_of(count, percent)) for percent in PERCENTS]
        sizes = sorted({*sizes, len(audience)})
        curve = size_curve(folds, data, able, sizes, progress=progress)
        chosen = curve[sizes.index(len(audience))]
        used = field_importance(folds[0], data, able, seed=seed, progress=progress)
    candidates = able & ~seeds & ~data.mask_of(exclude)
    method, origin = method_of(general), general.origin
    return Explanation(
        campaign="New campaign" if own.id is None else str(own.id),
        attributes=_attributes(data, own),
        data=data.name,
        model=method.label + ("" if origin is None else f" ({origin.digest[:8]})"),
        date=date.today().isoformat(),
        size=len(audience),
        num_candidates=audience.num_candidates,
        is_default=size is None,
        num_users=data.num_users,
        seeds=len(own.seeds),
        seeds_of_audiences=len(own.seeds) - own.num_given_seeds,
        seeds_not_found=own.num_unmatched,
        unknown=own.unknown_attributes,
        curve=curve,
        chosen=chosen,
        auc=None if used is None else used.auc,
        fields=[] if used is None else used.fields,
        traits=audience_traits(data, members, candidates),
        sensitive=sensitive_shares(data, members, candidates),
    )


def _attributes(data: Dataset, campaign: Campaign) -> dict[str, str]:
    """The campaign's attributes as text, by field."""
    found, first = {}, len(data.schema.user)
    for number, (field, row) in enumerate(zip(data.schema.campaign, campaign.rows, strict=True)):
        values = data.vocabulary.values[first + number]
        place = int(row) - data.vocabulary.offsets[first + number]
        known = 0 <= place < len(values)
        found[field.name] = field.text(values[place].item()) if known else "not seen in training"
    return found


def _common_first(traits: Sequence[Trait], count: int) -> list[Trait]:
    """The traits that differ most from the pool in percentage points, common ones first."""
    differing = sorted(traits, key=lambda own: -abs(own.audience - own.pool))[:count]
    return sorted(differing, key=lambda own: -max(own.audience, own.pool))


def _chart(curve: Sequence[SizePoint], chosen: SizePoint) -> dict[str, Any]:
    """The curve of sizes in a plot of `_WIDTH` by `_HEIGHT`; x is logarithmic, y is the lift."""
    low, high = math.log(curve[0].share), math.log(curve[-1].share)
    top = 1.3 * max(own.lift.value for own in curve) or 1.0
    step = next((s for s in _STEPS if top <= 5 * s), top / 5)

    def x(own: SizePoint) -> float:
        return round(_WIDTH * (math.log(own.share) - low) / ((high - low) or 1), 1)

    def y(lift: float) -> float:
        return round(_HEIGHT * (1 - min(lift / (5 * step), 1)), 1)

    def line(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{a},{b}" for a, b in points)

    dots = [(x(own), y(own.lift.value)) for own in curve]
    above = [(x(own), y(own.lift.high)) for own in curve]
    below = [(x(own), y(own.lift.low)) for own in curve]
    shown = [own for own in curve if own is chosen or abs(x(own) - x(chosen)) > _APART]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "line": line(dots),
        "band": line([*above, *reversed(below)]),
        "dots": dots,
        "mark": (x(chosen), y(chosen.lift.value)),
        "average": y(1),
        "ticks_x": [(x(own), f"{100 * own.share:.2g}%") for own in shown],
        "ticks_y": [(y(i * step), f"{i * step:g}") for i in range(6)],
    }
