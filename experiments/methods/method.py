"""What a method is: an offline and an online stage, two plain functions over the same data.

Axes: P users of a pool, S slots of a user.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from metaheac_jax.data.dataset import Dataset
from metaheac_jax.presets import Preset
from metaheac_jax.progress import Progress

#: A customised model: (P, S) table rows of users -> (P,) scores, higher for likelier converts.
Scorer = Callable[[np.ndarray], np.ndarray]
#: Called as ``watch(step, models)`` after an online step; ``models()`` gives them as they are.
Watch = Callable[[int, Callable[[], list[Scorer]]], None]


@dataclass(frozen=True)
class Job:
    """What a method works on.

    Attributes:
      dataset: of all campaigns.
      campaigns: indices of the training campaigns.
      preset: settings.
      seed: of initial values, batches and orders.
      directory: of the offline stage's checkpoints.
      log: JSON lines of the offline stage.
      progress: told what is done.
    """

    dataset: Dataset
    campaigns: np.ndarray
    preset: Preset
    seed: int
    directory: Path
    log: Path | None
    progress: Progress


class Online(Protocol):
    """The online stage."""

    def __call__(
        self, job: Job, general: Any, campaigns: np.ndarray, watch: Watch | None = None, /
    ) -> list[Scorer]:
        """A customised model of each campaign, from its stage 1.

        ``watch`` is called if the method adapts by steps of gradient descent.
        """


@dataclass(frozen=True)
class Method:
    """One row of a table.

    Attributes:
      label: as a table names it.
      offline: from the training campaigns' stage 1 to whatever ``online`` starts from; resumes
        from the job's checkpoints if it can.
      online: see `Online`.
      settings: fields of the preset that this method overrides.
      tuned: the rates among the preset's fields that are chosen on held-out training campaigns.
      steps: whether the offline stage takes gradient steps.
      work: arithmetic of an example, offline (over the one epoch) and online (an epoch), as
        multiples of the forward pass of MetaHeac's network: for estimates of time.
    """

    label: str
    offline: Callable[[Job], Any]
    online: Online
    settings: Mapping[str, Any] = field(default_factory=dict)
    tuned: tuple[str, ...] = ()
    steps: bool = False
    work: tuple[float, float] = (0.0, 0.0)

    def preset(self, preset: Preset) -> Preset:
        """The preset with this method's own settings."""
        return replace(preset, **self.settings)


def campaigns_at_once(most: int) -> int:
    """How many campaigns to vmap together: all on an accelerator, one on a CPU.

    On 2 cores a batched product is up to three times slower than the same products in turn, since
    only the latter use the fast matrix kernels.
    """
    return 1 if jax.default_backend() == "cpu" else most


def offline_steps(dataset: Dataset, campaigns: np.ndarray, preset: Preset) -> int:
    """Steps of the offline stage: ``epochs`` times ceil(training examples / rows)."""
    examples = int(dataset.stage1.counts[campaigns].sum())
    return preset.epochs * -(-examples // preset.rows)
