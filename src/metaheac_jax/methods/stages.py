"""The two stages of a method: their inputs, their types, and their results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from jax.sharding import Mesh

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.model import AdaptedWeights, General, Scorer, State, Watch
from metaheac_jax.progress import Progress, silent
from metaheac_jax.settings import Settings
from metaheac_jax.training.loop import Quality


@dataclass(frozen=True)
class Run:
    """The inputs of a stage of a method.

    Attributes:
      dataset: users, campaigns and examples.
      campaigns: indices of the training campaigns.
      settings: settings of the method.
      seed: random seed of initial values, batches and orders.
      directory: folder for checkpoints of the offline stage; None for no checkpoints.
      log: file for JSON lines of the offline stage; None for no log.
      progress: receives the progress of each stage.
      held_out: indices of the held-out campaigns, which determine when the offline stage stops;
        empty if it runs all epochs.
      judge: judges a state of the offline stage on these campaigns; None if there are none.
      start: the general model that the offline stage continues from; None to start afresh.
      skip_nonfinite: maximum number of non-finite steps that the offline stage may skip.
      label: name of the training in logs and progress.
      mesh: the devices that share the work; None for one device.
      kept: folder in which the online stage keeps customised campaigns; None to keep none.
      watch: follows the steps of the online stage, if it takes any; None if nobody does.
    """

    dataset: Dataset
    campaigns: np.ndarray
    settings: Settings
    seed: int
    directory: Path | None = None
    log: Path | None = None
    progress: Progress = silent
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    judge: Callable[[State], Quality] | None = None
    start: General | None = None
    skip_nonfinite: int = 0
    label: str = ""
    mesh: Mesh | None = None
    kept: Path | None = None
    watch: Watch[Scorer] | None = None


class Trained(NamedTuple):
    """The result of the offline stage.

    Attributes:
      state: what the method learned.
      judgements: (E, 3) step, AUC and loss of each judgement on held-out campaigns.
      optimizer: the optimiser's state, as in `General`; None for a method that takes no steps.
    """

    state: State
    judgements: np.ndarray = np.empty((0, 3))
    optimizer: State | None = None


def no_training(run: Run) -> Trained:
    """The offline stage of a method that learns nothing offline."""
    del run
    return Trained({})


class Train(Protocol):
    """The offline stage."""

    def __call__(self, run: Run, /) -> Trained:
        """Trains on stage 1 of the training campaigns; resumes from the run's checkpoints."""


class Adapt(Protocol):
    """The online stage."""

    def __call__(self, run: Run, state: State, campaigns: Sequence[Campaign], /) -> list[Scorer]:
        """Customises a model to each campaign, from its examples.

        A method that adapts by gradient descent calls the run's ``watch``.
        """


class Restore(Protocol):
    """Makes a scorer from saved adapted weights."""

    def __call__(
        self, run: Run, state: State, campaign: Campaign, adapted: AdaptedWeights, /
    ) -> Scorer:
        """The scorer that `Adapt` made with these weights.

        Only the table rows of the campaign are read.
        """


def epoch_steps(run: Run) -> int:
    """Number of steps per epoch of the offline stage: ceil(training examples / batch size)."""
    examples = int(run.dataset.stage1.counts[run.campaigns].sum())
    return -(-examples // run.settings.batch_size)
