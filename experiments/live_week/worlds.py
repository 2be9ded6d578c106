"""The simulated applications: their campaigns and users, and who is active and converts.

Axes: U users, C running campaigns, P users of a bucket.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.simulation import (
    PERSONA,
    RECIPE,
    TENCENT_WORLD,
    Shape,
    Truth,
    read_truth,
    write_world,
)
from metaheac_jax.data.sources import tencent
from metaheac_jax.data.splits import Split, paper_split
from metaheac_jax.data.storage import FORMAT, open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import make_once
from metaheac_jax.progress import Progress

#: The conversion rate of each application, as a multiple of the Tencent data's rate, 1:20. The
#: paper does not state these rates. Besides the seed, nothing else differs between applications.
APPLICATIONS = {"video": 2.0, "advertisements": 1.0, "article": 1.5}
#: A user is active on a day with probability sigmoid(a + b t), where t is the mean of the user's
#: traits `ACTIVE_TRAITS`; the mean over users is 0.4. Methods do not influence it.
ACTIVITY = (-0.45, 1.0)
ACTIVE_TRAITS = ("apps", "browsing")
#: The stream of random numbers that splits candidates; `week.DAYS` starts the others. Training and
#: customising share the week's seed, and their streams count from 0.
BUCKETS = 1 << 63


@dataclass(frozen=True)
class World:
    """The world of an application in one week.

    Attributes:
      dataset: all campaigns, without any feedback.
      split: its test campaigns are the running ones.
      truth: the true probabilities; users and campaigns by their index in the dataset.
      activity: (U,) probability that a user is active on a day.
    """

    dataset: Dataset
    split: Split
    truth: Truth
    activity: np.ndarray


def load_world(
    application: str,
    *,
    num_users: int,
    num_campaigns: int,
    seed: int,
    cache_dir: Path,
    progress: Progress,
) -> World:
    """Simulates the world of an application, or opens it if the cache has it.

    Args:
      application: name, one of `APPLICATIONS`.
      num_users: U.
      num_campaigns: all campaigns, running or not.
      seed: seed of the week; every application derives a different seed from it.
      cache_dir: folder for the simulated files and the prepared dataset.
      progress: receives what is being done.
    """
    world_seed = seed_of_world(application, seed)
    name = f"{application}-{num_users}-users-{num_campaigns}-campaigns-seed-{world_seed}"
    name = f"simulated-{RECIPE}-{name}"
    number = FORMAT.rpartition(" ")[2]
    source, target = cache_dir / name, cache_dir / f"prepared-{number}-{name}"

    def simulate() -> None:
        write_world(
            source,
            users=num_users,
            min_pool_examples=0,
            seed=world_seed,
            shape=world_shape(application, num_campaigns),
            progress=progress,
        )

    def prepare() -> None:
        tencent.prepare(source, target, progress=progress)

    make_once(source, simulate, progress=progress)
    make_once(target, prepare, progress=progress)
    dataset = open_dataset(target, progress=progress)
    truth = read_truth(source)
    traits = truth.traits[np.searchsorted(truth.key, dataset.user_ids)]
    truth = truth._replace(key=dataset.user_ids, traits=traits)
    return World(dataset, paper_split(dataset, seed), truth, daily_activity(traits))


def seed_of_world(application: str, seed: int) -> int:
    """The random seed of an application's world in the week with this seed."""
    return len(APPLICATIONS) * seed + list(APPLICATIONS).index(application)


def world_shape(application: str, num_campaigns: int) -> Shape:
    """The shape of the Tencent data with fewer campaigns and the application's conversion rate."""
    base = TENCENT_WORLD
    share, rate = num_campaigns / base.campaigns, APPLICATIONS[application]

    def fewer(count: int) -> int:
        return max(2, round(share * count))

    return replace(
        base,
        name=application,
        campaigns=num_campaigns,
        advertisers=fewer(base.advertisers),
        campaign_ids=fewer(base.campaign_ids),
        sizes=fewer(base.sizes),
        categories=fewer(base.categories),
        products=fewer(base.products),
        product_types=fewer(base.product_types),
        rate_min=rate * base.rate_min,
        rate_mean=rate * base.rate_mean,
        rate_sd=rate * base.rate_sd,
        rate_max=rate * base.rate_max,
    )


def daily_activity(traits: np.ndarray) -> np.ndarray:
    """(U, D) traits of users -> (U,) probability of being active on a day; see `ACTIVITY`."""
    columns = [PERSONA.index(name) for name in ACTIVE_TRAITS]
    level = traits[:, columns].mean(axis=1)
    return 1 / (1 + np.exp(-(ACTIVITY[0] + ACTIVITY[1] * level)))


def split_candidates(world: World, seed: int) -> np.ndarray:
    """(2, C, P) users: two random halves of the candidates for every running campaign.

    Candidates are all users without a stage-1 example. If their number is odd, one is left out.
    """
    candidates = np.setdiff1d(np.arange(world.dataset.num_users), world.dataset.stage1.user)
    rng, half = generator(seed, BUCKETS), len(candidates) // 2
    halves = [rng.permutation(candidates)[: 2 * half].reshape(2, half) for _ in world.split.test]
    return np.stack(halves, axis=1)


def audience_size(share: float, buckets: np.ndarray) -> int:
    """The number of users that an arm takes for a campaign on a day.

    Args:
      share: fraction of a bucket.
      buckets: (2, C, P), from `split_candidates`.

    Raises:
      InputError: the number is zero.
    """
    size = round(share * buckets.shape[2])
    if size < 1:
        raise InputError(
            f"--audience: {share} of {buckets.shape[2]} users is less than one user; "
            "raise --audience or --users"
        )
    return size
