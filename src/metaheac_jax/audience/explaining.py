"""An audience explained on one page: how many, how good, who they are, and why.

Axes: U users of the data, S slots of a user, V values.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np

from metaheac_jax.audience.expanding import expand, find_campaigns
from metaheac_jax.audience.held_out import (
    MIN_SEEDS,
    PERCENTS,
    Importance,
    SizePoint,
    cross_fit,
    field_importance,
    size_curve,
)
from metaheac_jax.audience.proxies import Proxy, find_proxies
from metaheac_jax.audience.rates import Lift, least_effect
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.user_ids import UserIds
from metaheac_jax.data.views import UserRows
from metaheac_jax.errors import InputError, shown
from metaheac_jax.methods import method_of
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import percent_of

DEFAULT_PERCENT = 5.0  # size of an audience if none is given, in percent of the candidates
_HOLD_OUTS = (0.05, 0.1, 0.2, 0.5)  # sizes of control groups, as fractions of the audience
_WIDTH, _HEIGHT = 560, 220  # of the chart
_STEPS = (0.5, 1, 2, 3, 4, 5, 10, 20, 50, 100)  # between ticks of the chart
_OFTEN = 1.5  # how many times as often seeds may have been shown campaigns, without a caution
_APART = 28  # between the chosen size's tick and others
_MORE, _LESS, _FIELDS = 10, 5, 10  # on the page: traits more and less common, and fields
#: Fractions of fewer users than this are not shown: they are uncertain, and may reveal something
#: about individual users. Where all other values of a field are shown, the hidden one follows.
MIN_CELL = 50
_BLOCK = 1 << 18  # users counted at a time


@dataclass(frozen=True)
class Trait:
    """A value of a user field or of a sensitive field, which no model sees.

    Attributes:
      field: name of the field.
      value: the value; for a field with buckets, the bucket's range of numbers.
      audience, pool: fraction of the users who have it.
    """

    field: str
    value: str
    audience: float
    pool: float

    @property
    def lift(self) -> float:
        """How many times as common the value is in the audience as in the pool."""
        return self.audience / self.pool


@dataclass(frozen=True)
class Power:
    """What a control group can show.

    Attributes:
      users: its size.
      effect: fraction of the conversions of the users who are shown the campaign that it must
        cause, so that the control group shows it 4 times of 5.
    """

    users: int
    effect: float


@dataclass(frozen=True)
class Explanation:
    """What is known about an audience.

    Attributes:
      campaign: name of the campaign.
      attributes: its attributes as text.
      data, model: what they were made from, for the page's head.
      date: day on which it was made, ISO 8601.
      size, num_candidates: number of users in the audience, and of candidates for it.
      num_users: number of users of the data.
      seeds: number of seeds that were learned from.
      few: what so few seeds are worth, in a sentence; empty if they are not few, or it is unknown.
      seeds_shown, candidates_shown: fraction of the seeds, and of the candidates, who are in
        examples of other campaigns.
      curve: a point per size; empty if there are fewer than `held_out.MIN_SEEDS` seeds.
      chosen: the point of this audience's size; None likewise.
      auc: AUC of held-out seeds against other users, mean of the folds; None likewise.
      fields: user fields by importance; empty likewise.
      powers: what control groups of several sizes can show; empty likewise.
      lift: what the control groups of earlier audiences of the campaign show; None without any.
      traits: values of user fields, from the most to the least over-represented.
      sensitive: values of sensitive fields.
      proxies: how well the fields that models see tell the sensitive ones.
    """

    campaign: str
    attributes: Mapping[str, str]
    data: str
    model: str
    date: str
    size: int
    num_candidates: int
    num_users: int
    seeds: int
    few: str
    seeds_shown: float
    candidates_shown: float
    curve: Sequence[SizePoint]
    chosen: SizePoint | None
    auc: float | None
    fields: Sequence[Importance]
    powers: Sequence[Power]
    lift: Lift | None
    traits: Sequence[Trait]
    sensitive: Sequence[Trait]
    proxies: Sequence[Proxy]

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

    @property
    def caution(self) -> str:
        """Why the lift may be too high, in one sentence; empty if nothing speaks for that."""
        if self.chosen is None or self.seeds_shown <= _OFTEN * self.candidates_shown:
            return ""
        return (
            f"{self.seeds_shown:.0%} of the seeds were shown other campaigns, and "
            f"{self.candidates_shown:.0%} of the candidates; part of the lift may be this "
            "difference, so expect less."
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        told = {"summary": self.summary, "caution": self.caution}
        return shown(asdict(self) | told | {"outcome": self.lift and self.lift.summary})

    def html(self) -> str:
        """The page: one file, which loads and runs nothing."""
        import jinja2

        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("metaheac_jax", "audience"),
            autoescape=True,
            finalize=lambda own: own if hasattr(own, "__html__") else shown(own),
            trim_blocks=True,
            lstrip_blocks=True,
            undefined=jinja2.StrictUndefined,
        )
        return environment.get_template("explanation.html.jinja").render(
            page=self,
            chart=None if self.chosen is None else _chart(self.curve, self.chosen),
            more=_common_first([trait for trait in self.traits if trait.lift > 1], _MORE),
            less=_common_first([trait for trait in self.traits if trait.lift < 1], _LESS),
            fields=self.fields[:_FIELDS],
            widest=max((abs(field.drop) for field in self.fields), default=0.0) or 1.0,
            min_seeds=MIN_SEEDS,
            min_cell=MIN_CELL,
        )


def explain(
    general: General,
    data: Dataset,
    campaign: Campaign | int | str,
    *,
    size: int | None = None,
    pool: UserIds | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Explanation:
    """Explains the audience that `expanding.expand` returns for the same arguments.

    It customises and scores `FOLDS` times more, for the curve of sizes.

    Args:
      general, data, campaign, pool, seed: as in `expanding.expand`.
      size: number of users; by default `DEFAULT_PERCENT` of the candidates.

    Raises:
      InputError: as in `expanding.expand`, or nobody is left for the audience.
      Diverged: weights or scores are not finite.
    """
    able = data.pool_mask(pool)
    data, [own] = find_campaigns(general, data, [campaign], pool=able, seed=seed)
    audience = expand(
        general,
        data,
        own,
        size=size,
        percent=DEFAULT_PERCENT if size is None else None,
        pool=able,
        seed=seed,
        progress=progress,
    )
    if not len(audience):
        raise InputError(f"{own.name}: nobody of the pool is left for its audience; use a larger")
    members, candidates = np.zeros(data.num_users, bool), able.copy()
    members[data.find_users(audience["user_id"])] = True
    candidates[own.seeds] = False
    shown = _shown_others(data, own)
    num_candidates, curve = int(candidates.sum()), list[SizePoint]()
    chosen, auc, fields = None, None, list[Importance]()
    folds = cross_fit(general, data, own, pool=able, seed=seed, progress=progress)
    if folds:
        sizes = [max(1, percent_of(num_candidates, percent)) for percent in PERCENTS]
        sizes = sorted({*sizes, len(audience)})
        curve = size_curve(folds, data, able, sizes, progress=progress)
        chosen = curve[sizes.index(len(audience))]
        auc, fields = field_importance(folds, data, able, seed=seed, progress=progress)
    base = own.num_given_seeds / able.sum()
    return Explanation(
        campaign="New campaign" if own.id is None else str(own.id),
        attributes=_attributes(data, own),
        data=data.name,
        model=method_of(general).label,
        date=date.today().isoformat(),
        size=len(audience),
        num_candidates=num_candidates,
        num_users=data.num_users,
        seeds=len(own.seeds),
        few=general.told_of_seeds(len(own.seeds)),
        seeds_shown=float(shown[own.seeds].mean()),
        candidates_shown=float(shown[candidates].mean()),
        curve=curve,
        chosen=chosen,
        auc=auc,
        fields=fields,
        powers=[] if chosen is None else _powers(min(1.0, base * chosen.lift.value), chosen.size),
        lift=_lift(data, own),
        traits=audience_traits(data, members, candidates),
        sensitive=sensitive_traits(data, members, candidates),
        proxies=find_proxies(data, able, seed=seed),
    )


def _shown_others(data: Dataset, campaign: Campaign) -> np.ndarray:
    """(U,) bool, whether each user is in an example of another campaign."""
    shown, is_own = np.zeros(data.num_users, bool), data.campaigns_among([str(campaign.id)])
    for stage in data.stages.values():
        shown[stage.user[~is_own[stage.campaign]]] = True
    return shown


def _powers(rate: float, size: int) -> list[Power]:
    """What control groups of an audience can show, at a rate of converts of its users."""
    users = sorted({max(1, round(share * size)) for share in _HOLD_OUTS} - {size})
    return [Power(n, least_effect(rate, size - n, n)) for n in users]


def _lift(data: Dataset, campaign: Campaign) -> Lift | None:
    """What the campaign's control groups show so far."""
    places = np.flatnonzero(data.campaigns_among([str(campaign.id)]))
    if not len(places):
        return None
    _, label, control = data.audience_of(int(places[0]))
    parts = label[~control], label[control]
    if not all(map(len, parts)):
        return None
    shown, others = (int(part.sum()) for part in parts)
    return Lift((shown, others), (len(parts[0]), len(parts[1])))


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
    top = 1.3 * max(point.lift.value for point in curve) or 1.0
    step = next((s for s in _STEPS if top <= 5 * s), top / 5)

    def x(own: SizePoint) -> float:
        return round(_WIDTH * (math.log(own.share) - low) / ((high - low) or 1), 1)

    def y(lift: float) -> float:
        return round(_HEIGHT * (1 - min(lift / (5 * step), 1)), 1)

    def line(points: Sequence[tuple[float, float]]) -> str:
        return " ".join(f"{a},{b}" for a, b in points)

    dots = [(x(point), y(point.lift.value)) for point in curve]
    above = [(x(point), y(point.lift.high)) for point in curve]
    below = [(x(point), y(point.lift.low)) for point in curve]
    shown = [point for point in curve if point is chosen or abs(x(point) - x(chosen)) > _APART]
    return {
        "width": _WIDTH,
        "height": _HEIGHT,
        "line": line(dots),
        "band": line([*above, *reversed(below)]),
        "dots": dots,
        "mark": (x(chosen), y(chosen.lift.value)),
        "average": y(1),
        "ticks_x": [(x(trait), f"{100 * trait.share:.2g}%") for trait in shown],
        "ticks_y": [(y(i * step), f"{i * step:g}") for i in range(6)],
    }


def audience_traits(data: Dataset, audience: np.ndarray, pool: np.ndarray) -> list[Trait]:
    """The values of user fields, from the most to the least over-represented in an audience.

    Left out are vectors, and values with fewer than `MIN_CELL` users in the audience or pool.

    Args:
      audience: (U,) bool, the users of the audience, at least one.
      pool: (U,) bool, the users who could be in the audience.
    """
    rows = data.user_rows.without_numbers
    in_audience, in_pool = _counts(rows, (audience, pool), data.num_rows)
    traits = []
    for number, field in enumerate(data.schema.user):
        if field.vector:
            continue
        first = data.vocabulary.offsets[number]
        for row, value in enumerate(data.vocabulary.values[number], start=first):
            if min(in_audience[row], in_pool[row]) >= MIN_CELL:
                shares = in_audience[row] / audience.sum(), in_pool[row] / pool.sum()
                traits.append(Trait(field.name, field.text(value), *shares))
    return sorted(traits, key=lambda trait: -trait.lift)


def sensitive_traits(data: Dataset, audience: np.ndarray, pool: np.ndarray) -> list[Trait]:
    """The values of sensitive fields, in their order.

    Values with fewer than `MIN_CELL` users in the pool are left out. The fraction of the audience
    is 0 where fewer of its users have a value, so a value that it lacks is still reported.

    Args:
      data, audience, pool: as in `audience_traits`.
    """
    traits = []
    for name, field in data.sensitive.items():
        counts = _counts(field.codes, (audience, pool), len(field.values))
        for value, part, whole in zip(field.values, *counts, strict=False):  # the last is for none
            if whole >= MIN_CELL:
                share = part / audience.sum() if part >= MIN_CELL else 0.0
                traits.append(Trait(name, str(value), share, whole / pool.sum()))
    return traits


def _counts(rows: UserRows, groups: Sequence[np.ndarray], num_values: int) -> list[np.ndarray]:
    """(V + 1,) number of users of each group who have each value; a user counts once per value.

    Args:
      rows: (U, S) values of all users; V where a slot is empty.
      groups: (U,) bool each.
      num_values: V.
    """
    counts = [np.zeros(num_values + 1, np.int64) for _ in groups]
    for start in range(0, len(rows), _BLOCK):
        own = np.sort(rows[start : start + _BLOCK], axis=1)
        first = np.ones(own.shape, bool)
        first[:, 1:] = own[:, 1:] != own[:, :-1]
        for count, group in zip(counts, groups, strict=True):
            members = group[start : start + _BLOCK]
            count += np.bincount(own[members][first[members]], minlength=num_values + 1)
    return counts
