"""Held-out campaigns, which show when a model stops improving in training, and what it should use.

A general model is only as good as the models that are customised from it. So it is customised to
half of each held-out campaign's examples and judged on the other half.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from metaheac_jax.data.batches import generator
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.folds import shuffle_classes
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods.method import Method, Offline, Online
from metaheac_jax.model import General, Judgement, Scorer, SeedPoint, State, on_device
from metaheac_jax.processes import gathered, part_of_process
from metaheac_jax.ranking import auc
from metaheac_jax.training.loop import Judge

_FRACTION = 0.1  # fraction of the training campaigns to hold out
_MIN_CAMPAIGNS = 3  # minimum number of held-out campaigns
# Maximum number of examples in a half, so that a judgement takes little time on any data set. It
# is large, so that held-out campaigns are customised on about as many examples as new ones.
MAX_HALF = 65_536
MAX_WEIGHT = 1000  # of a campaign in the mean over campaigns
SEEDS = 10, 30, 100, 300, 1000  # numbers of seeds whose worth is judged


def num_held_out(num_campaigns: int) -> int:
    """How many of the training campaigns are held out, unless training continues from a model."""
    return max(_MIN_CAMPAIGNS, math.ceil(_FRACTION * num_campaigns))


def hold_out_campaigns(
    data: Dataset, campaigns: np.ndarray, seed: int, *, start: General | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Divides training campaigns (by index) into those to train on and those to hold out.

    A tenth is held out. If training continues from a model, the campaigns that were held out of all
    its training come first, and then up to half of those that are new to it, rounded up. If these
    are fewer than a tenth but at least three, they alone are held out; if they are fewer, campaigns
    that the model was trained on are held out too.

    Raises:
      InputError: too few campaigns have the two seeds and two non-seeds that halving needs.
    """
    seeds = data.stage1.positives[campaigns]
    others = data.stage1.counts[campaigns] - seeds
    able = generator(seed, 0).permutation(campaigns[(seeds >= 2) & (others >= 2)])
    count = num_held_out(len(campaigns))
    if start is not None:
        known = data.campaigns_among(start.campaigns)[able]
        again = data.campaigns_among(start.held_out)[able] & ~known
        new = able[~again & ~known]
        half = (len(new) + 1) // 2
        able = np.concatenate([able[again], new[:half], able[known], new[half:]])
        unseen = int(again.sum()) + half
        count = min(count, unseen) if unseen >= _MIN_CAMPAIGNS else count
    if len(able) < count or len(campaigns) <= count:
        raise InputError(
            f"{data.where}: {count} campaigns have to be held out, each with at least two seeds "
            f"and two non-seeds; {len(able)} of {len(campaigns)} campaigns have these; add "
            "campaigns, or train for a fixed number of epochs"
        )
    held = able[:count]
    return np.setdiff1d(campaigns, held), np.sort(held)


@dataclass(frozen=True)
class HeldOut:
    """A held-out campaign in two halves.

    Attributes:
      campaign: the campaign with the half of its examples to customise on.
      users: indices of the users of the other half.
      labels: labels of these users.
      times: when they were shown the campaign; None if it is not known.
    """

    campaign: Campaign
    users: np.ndarray
    labels: np.ndarray
    times: np.ndarray | None = None

    @property
    def weight(self) -> int:
        """Weight in the mean over campaigns: its judged seeds or non-seeds, whichever are fewer.

        The AUC of a handful of seeds changes more by chance than by training, and one such campaign
        would decide when training stops.
        """
        seeds = int(self.labels.sum())
        return min(seeds, len(self.labels) - seeds, MAX_WEIGHT)


def halve_each(offline: Offline) -> list[HeldOut]:
    """Halves each held-out campaign; see `halve`."""
    return [halve(offline.dataset, c, offline.seed) for c in offline.held_out.tolist()]


def halve(data: Dataset, index: int, seed: int) -> HeldOut:
    """Halves the seeds and the non-seeds of a campaign at random, up to the maximum of a half.

    A half above the maximum is thinned evenly, which keeps its fraction of seeds, but at least one
    seed and one non-seed remain.

    Raises:
      InputError: the campaign has fewer than two seeds or two non-seeds.
    """
    campaign = data.campaign(index)
    classes = shuffle_classes(campaign.labels, generator(seed, index))
    if min(map(len, classes)) < 2:
        raise InputError(
            f"{data.where}: {campaign.name}: has {len(classes[0])} seeds and {len(classes[1])} "
            "non-seeds; a held-out campaign is halved, so it needs at least two of each; leave it "
            "out"
        )
    kept = min(1.0, 2 * MAX_HALF / len(campaign.labels))
    halves = [(part[: len(part) // 2], part[len(part) // 2 :]) for part in classes]
    adapted, judged = (
        np.concatenate([part[: max(1, round(len(part) * kept))] for part in parts])
        for parts in zip(*halves, strict=True)
    )
    other = campaign.pick(judged)
    return HeldOut(campaign.pick(adapted), other.users, other.labels, other.times)


#: A stage of a method that makes scorers; see `Method.customise`.
Customise = Callable[[Online, State, Sequence[Campaign]], Sequence[Scorer]]


def judge_of(customise: Customise, offline: Offline, held_out: Sequence[HeldOut]) -> Judge:
    """Makes the judge of an offline stage.

    It customises a state to held-out campaigns and judges the other halves. With a mesh, each
    process judges some campaigns. It raises `Diverged` if a score is not a number.
    """
    count = len(held_out)

    def judge(state: State, step: int) -> Judgement:
        some = [
            held_out[n] for n in (range(count) if offline.mesh is None else part_of_process(count))
        ]
        scores = score_halves(customise, offline, some, state)
        judged = [quality_of(*pair) for pair in zip(some, scores, strict=True)]
        judged = judged if offline.mesh is None else gathered(judged, count)
        return mean_judgement(step, held_out, judged)

    return judge


def offline_of(
    member: Method[Any],
    offline: Offline,
    held_out: Sequence[HeldOut],
    *,
    start: General | None = None,
) -> Offline:
    """What a member of an ensemble is given: held-out campaigns judge it, and teach it nothing."""
    return replace(
        offline,
        held_out=offline.held_out[:0],
        judge=judge_of(member.customise, offline, held_out)
        if held_out and member.holds_out
        else None,
        start=start,
        directory=offline.directory and offline.directory / member.name,
        label=f"{offline.label}: {member.label}",
    )


def score_halves(
    customise: Customise, offline: Offline, held_out: Sequence[HeldOut], state: State
) -> list[np.ndarray]:
    """The float64 log-odds of the judged half of each campaign, after customising to the other.

    Raises:
      Diverged: a score is not a number.
    """
    online, scores = Online(offline.dataset, offline.seed), list[np.ndarray]()
    models = customise(online, on_device(state), [held.campaign for held in held_out])
    for held, model in zip(held_out, models, strict=True):
        rows = online.dataset.user_rows.of_examples(held.users, -1, held.times)
        scores.append(np.asarray(model(rows), np.float64))
        if np.isnan(scores[-1]).any():
            raise Diverged(f"{held.campaign.name}, held out: a score is not a number")
    return scores


def judge_seeds(
    customise: Customise, offline: Offline, held_out: Sequence[HeldOut], state: State
) -> tuple[SeedPoint, ...]:
    """Judges what a model loses if it is customised to few seeds, by ascending numbers.

    As many of a campaign's non-seeds are left out as of its seeds, in proportion.
    """
    points, every = list[SeedPoint](), score_halves(customise, offline, held_out, state)
    aucs = [quality_of(*pair)[0] for pair in zip(held_out, every, strict=True)]
    for size in SEEDS:
        able = [n for n, half in enumerate(held_out) if half.campaign.labels.sum() >= 2 * size]
        if len(able) < _MIN_CAMPAIGNS:
            break
        few = list[HeldOut]()
        for half in (held_out[n] for n in able):
            seeds, others = shuffle_classes(half.campaign.labels, generator(offline.seed, size))
            count = max(1, round(len(others) * size / len(seeds)))
            kept = np.sort(np.concatenate([seeds[:size], others[:count]]))
            few.append(replace(half, campaign=half.campaign.pick(kept)))
        scores = score_halves(customise, offline, few, state)
        each = [quality_of(*pair)[0] for pair in zip(few, scores, strict=True)]
        whole = np.mean([aucs[n] for n in able])
        points.append(SeedPoint(size, float(np.mean(each)), float(whole), len(able)))
    return tuple(points)


def quality_of(held: HeldOut, log_odds: np.ndarray) -> tuple[float, float]:
    """The AUC and the logistic loss of log-odds of a campaign's judged half."""
    loss = np.mean(np.logaddexp(0, log_odds) - held.labels * log_odds)
    return auc(log_odds, held.labels), float(loss)


def mean_judgement(
    step: int, held_out: Sequence[HeldOut], judged: Sequence[tuple[float, float]]
) -> Judgement:
    """The judgement by the mean over campaigns, weighted as in `HeldOut`."""
    weights = [held.weight for held in held_out]
    return Judgement(step, *np.average(judged, axis=0, weights=weights).tolist())
