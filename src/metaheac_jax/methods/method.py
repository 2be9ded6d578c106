"""The interface of a method: training on many campaigns, and customising to new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import numpy as np
from jax.sharding import Mesh

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.list_lengths import Lengths, with_lengths
from metaheac_jax.methods.config import Config, GradientConfig
from metaheac_jax.model import General, Scorer, State, Watch
from metaheac_jax.progress import Progress, silent
from metaheac_jax.training.log import Hook
from metaheac_jax.training.loop import Quality

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Run:
    """The inputs of a stage of a method.

    Attributes:
      dataset: users, campaigns and examples.
      campaigns: indices of the training campaigns.
      seed: random seed of initial values, batches and orders.
      directory: folder for checkpoints of the offline stage; None for no checkpoints.
      log: file for JSON lines of the offline stage, or a function of its records; None for no log.
      progress: receives the progress of each stage.
      held_out: indices of the held-out campaigns, which determine when the offline stage stops;
        empty if it runs all epochs.
      judge: judges a state of the offline stage on these campaigns; None if there are none.
      start: the general model that the offline stage continues from; None to start afresh.
      skip_nonfinite: maximum number of non-finite steps that the offline stage may skip.
      label: name of the training in logs and progress.
      mesh: the devices that share the work; None for one device.
      watch: follows the steps of the online stage, if it takes any; None if nobody does.
      lengths: adds list lengths to users, as the dataset has them; None if it has none.
    """

    dataset: Dataset
    campaigns: np.ndarray
    seed: int
    directory: Path | None = None
    log: Path | Hook | None = None
    progress: Progress = silent
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    judge: Callable[[State], Quality] | None = None
    start: General | None = None
    skip_nonfinite: int = 0
    label: str = ""
    mesh: Mesh | None = None
    watch: Watch[Scorer] | None = None
    lengths: Lengths | None = None


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


class Method(ABC, Generic[C]):
    """A way to train a general model and to customise it.

    A program adds its own by `registry.register`.

    Attributes:
      name: name for commands, which models are saved with.
      label: name for tables.
      default: the config of a method without one.
      config: settings of both stages, of the class of ``default``.
    """

    name: str
    label: str
    default: Config

    def __init__(self, config: C | None = None) -> None:
        self.config = cast(C, self.default) if config is None else config

    @abstractmethod
    def fit(self, run: Run) -> Trained:
        """The offline stage: learns from stage 1 of the training campaigns.

        It resumes from the run's checkpoints.
        """

    @abstractmethod
    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> Sequence[Scorer]:
        """The online stage: customises a model to each campaign, from its examples.

        A method that adapts by gradient descent calls the run's ``watch``.
        """

    def changed(self, **changes: Any) -> Self:
        """The method with other values for some settings; see `Config.changed`."""
        return type(self)(self.config.changed(changes))

    @property
    def min_campaigns(self) -> int:
        """The number of training campaigns that the offline stage needs."""
        return 1

    @property
    def holds_out(self) -> bool:
        """Whether held-out campaigns determine when the offline stage stops."""
        return False


class GradientMethod(Method[C]):
    """A method whose offline stage takes gradient steps, and can continue from a model."""

    @property
    def _step_configs(self) -> list[GradientConfig]:
        """The configs of all trainings, of which an ensemble has several."""
        every = (self.config, *self.config.parts.values())
        return [own for own in every if isinstance(own, GradientConfig)]

    @property
    def min_campaigns(self) -> int:
        """The number of campaigns in a meta-step."""
        return max(own.campaigns_per_step for own in self._step_configs)

    @property
    def holds_out(self) -> bool:
        """Whether there is a patience, and an epoch to stop."""
        return any(own.offline_epochs and own.offline_patience for own in self._step_configs)


def lengthened(
    run: Run, wanted: bool, campaigns: Sequence[Campaign] = ()
) -> tuple[Run, Sequence[Campaign]]:
    """The run, and campaigns, on data with list lengths as user fields, if they are wanted."""
    if not wanted:
        return run, campaigns
    dataset, lengths = with_lengths(run.dataset)
    moved = [replace(own, rows=lengths.campaigns(own.rows)) for own in campaigns]
    return replace(run, dataset=dataset, lengths=lengths), moved
