"""The arms of a simulated week.

Axes: U users, C running campaigns, P users of a bucket.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

import metaheac_jax as mh
from experiments.comparison.run import forget_compiled
from experiments.sources.simulated import World, open_world
from experiments.sources.splits import paper_split
from metaheac_jax.data.batches import generator
from metaheac_jax.data.simulation.shapes import PERSONA, TENCENT_WORLD, Shape
from metaheac_jax.data.simulation.truth import read_truth, show
from metaheac_jax.errors import InputError
from metaheac_jax.methods.held_out_campaigns import hold_out_campaigns
from metaheac_jax.methods.method import Method
from metaheac_jax.progress import Progress, prefixed

#: The conversion rate of each application, as a multiple of the Tencent data's rate, 1:20. The
#: paper does not state these rates. Besides the seed, nothing else differs between applications.
APPLICATIONS = {"video": 2.0, "advertisements": 1.0, "article": 1.5}
#: A user is active on a day with probability sigmoid(a + b t), where t is the mean of the user's
#: traits `ACTIVE_TRAITS`; the mean over users is 0.4. Methods do not influence it.
ACTIVITY = (-0.45, 1.0)
ACTIVE_TRAITS = ("apps", "browsing")
#: The stream of random numbers that splits candidates; those of the days follow. Training and
#: customising share the week's seed, and their streams count from 0.
BUCKETS = 1 << 63


@dataclass(frozen=True, kw_only=True)
class Week:
    """A week of an application.

    Attributes:
      application: one of `APPLICATIONS`.
      users, campaigns: numbers in its world.
      days: number of days.
      audience: fraction of its bucket that an arm takes for each campaign on each day.
      general_every: number of days between trainings of the general model.
      seed: random seed of the week.
    """

    application: str
    users: int
    campaigns: int
    days: int
    audience: float
    general_every: int
    seed: int

    @property
    def name(self) -> str:
        """The beginning of its file names."""
        return f"{self.application}-seed-{self.seed}"

    @property
    def world(self) -> World:
        """Its world; every application derives a different seed from that of the week."""
        return World(
            users=self.users,
            min_pool_examples=0,
            seed=len(APPLICATIONS) * self.seed + list(APPLICATIONS).index(self.application),
            shape=world_shape(self.application, self.campaigns),
        )


def run_arm(
    week: Week, method: Method, bucket: int, *, folder: Path, cache_dir: Path, progress: Progress
) -> list[int]:
    """Runs an arm for a week; returns its numbers of exposures and of conversions.

    Args:
      week: what to run.
      method: trains and customises the arm's models.
      bucket: 0 or 1, the half of the candidates.
      folder: for checkpoints. Arms of one method share the general model from before the week.
      cache_dir: folder of simulated worlds and prepared data.
      progress: receives what is being done.

    Raises:
      InputError: a campaign cannot be trained on, or the audience has no user.
      Diverged: a score is not a number.
    """
    world, own = week.world.folder(cache_dir), folder / f"{week.name}-{method.name}-{bucket}"
    before = open_world(week.world, cache_dir, progress=progress)
    assert before.folder is not None
    split, truth = paper_split(before, week.seed), read_truth(world)[0]
    activity = daily_activity(truth.traits)[np.searchsorted(truth.user_ids, before.user_ids)]
    candidates = split_candidates(before, split.test, week.seed)[bucket]
    size = round(week.audience * candidates.shape[1])
    if size < 1:
        raise InputError(
            f"--audience: {week.audience} of {candidates.shape[1]} users is less than one user; "
            "raise --audience or --users"
        )
    _, held_out = hold_out_campaigns(before, split.train, week.seed)  # none that is running
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(before.folder, own / "data")
    data, left = mh.open_dataset(own / "data"), list(candidates)
    counts, general = np.zeros(2, int), None
    for day in range(week.days):
        told = prefixed(progress, f"day {day + 1} of {week.days}, ")
        if general is None or day % week.general_every == 0:
            general = mh.fit(
                data,
                method,
                campaigns=split.train if day == 0 else None,
                held_out=held_out if day else None,
                seed=week.seed,
                directory=own / f"day-{day}" if day else folder / f"{week.name}-{method.name}",
                progress=told,
            )
        active = generator(week.seed, BUCKETS + 1 + day).random(data.num_users) < activity
        shown = []
        for place, index in enumerate(split.test):
            campaign, pool = int(data.campaign_ids[index]), data.user_ids[left[place]]
            audience = mh.expand(general, data, campaign, size=size, pool=pool, seed=week.seed)
            users = data.find_users(audience["user_id"])
            users = users[active[users]]
            left[place] = np.setdiff1d(left[place], users)
            ids = data.user_ids[users]
            shown.append(pl.DataFrame({"campaign_id": np.full(len(ids), campaign), "user_id": ids}))
            told("expand", place + 1, len(split.test))
        answers = show(world, pl.concat(shown), seed=week.days * week.seed + day)
        counts += len(answers), int(answers["label"].sum())
        data = data.add(examples=answers)
        forget_compiled()
    shutil.rmtree(own)
    return counts.tolist()


def world_shape(application: str, num_campaigns: int) -> Shape:
    """The shape of the Tencent data with fewer campaigns and the application's conversion rate."""
    share, rate = num_campaigns / TENCENT_WORLD.campaigns, APPLICATIONS[application]
    counts = ("advertisers", "campaign_ids", "sizes", "categories", "products", "product_types")
    rates = ("rate_min", "rate_mean", "rate_sd", "rate_max")
    changed: dict[str, Any] = {name: rate * getattr(TENCENT_WORLD, name) for name in rates}
    changed |= {name: max(2, round(share * getattr(TENCENT_WORLD, name))) for name in counts}
    return replace(TENCENT_WORLD, name=application, campaigns=num_campaigns, **changed)


def daily_activity(traits: np.ndarray) -> np.ndarray:
    """(U, D) traits of users -> (U,) probability of being active on a day; see `ACTIVITY`."""
    level = traits[:, [PERSONA.index(name) for name in ACTIVE_TRAITS]].mean(axis=1)
    return 1 / (1 + np.exp(-(ACTIVITY[0] + ACTIVITY[1] * level)))


def split_candidates(data: mh.Dataset, running: np.ndarray, seed: int) -> np.ndarray:
    """(2, C, P) users: two random halves of the candidates for every running campaign.

    Every campaign has its own split, because with a single one all campaigns that seek the same
    users would share their luck. If the number of candidates is odd, one is left out.
    """
    candidates = np.setdiff1d(np.arange(data.num_users), data.stage1.user)
    rng, half = generator(seed, BUCKETS), len(candidates) // 2
    halves = [rng.permutation(candidates)[: 2 * half].reshape(2, half) for _ in running]
    return np.stack(halves, axis=1)
