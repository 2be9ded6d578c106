"""Held-out seeds: what a customised model is judged on before its audience is used.

Axes: H held-out seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.methods import Method
from metaheac_jax.model import Customised, General
from metaheac_jax.progress import Progress, silent

HELD_OUT = 0.2  # of the seeds
#: Fewer cannot spare any, for 10 are held out at least.
MIN_SEEDS = 50


@dataclass(frozen=True)
class HeldOutSeeds:
    """Seeds that a customised model has not seen.

    Attributes:
      users: (H,) index of each.
      model: customised to the campaign's other seeds.
    """

    users: np.ndarray
    model: Customised

    @property
    def num_seeds(self) -> int:
        """All seeds of the campaign, held out or not."""
        return len(self.users) + len(self.model.campaign.seeds)


def hold_out_seeds(
    method: Method,
    general: General,
    data: Dataset,
    campaign: Campaign,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> HeldOutSeeds:
    """Holds out a fifth of the seeds, at random, and customises the general model to the others.

    Args:
      method: that trained the general model.
      general: the general model.
      data: has the campaign's users.
      campaign: with its seeds and non-seeds.
      seed: of the choice of held-out seeds, and of customising.
      progress: receives the number of campaigns done.

    Raises:
      InputError: there are too few seeds to hold some out, or as `Method.customise`.
    """
    check_whole("seed", seed, 0)
    seeds = np.flatnonzero(campaign.labels == 1)
    if len(seeds) < MIN_SEEDS:
        raise InputError(
            f"{campaign.name}: {len(seeds)} seeds, too few to hold a fifth out; give {MIN_SEEDS}"
        )
    count = int(HELD_OUT * len(seeds))
    held = np.random.Generator(np.random.Philox(seed)).choice(seeds, count, replace=False)
    rest = np.setdiff1d(np.arange(len(campaign.users)), held)
    kept = replace(campaign, users=campaign.users[rest], labels=campaign.labels[rest])
    [model] = method.customise(general, data, [kept], seed=seed, progress=progress)
    return HeldOutSeeds(campaign.users[held], model)
