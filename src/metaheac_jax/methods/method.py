"""The interface of a method: training on many campaigns, and customising to new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar, cast

import jax
import numpy as np
from jax.sharding import Mesh

from metaheac_jax.customising.score import AdaptedScorer
from metaheac_jax.data.batches import Batch, campaign_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.list_lengths import Lengths, with_lengths
from metaheac_jax.errors import Diverged, InputError, about
from metaheac_jax.methods.config import Config
from metaheac_jax.model import AdaptedWeights, General, Scorer, State, Weights
from metaheac_jax.networks import Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.training.loop import Hook, Quality

C = TypeVar("C", bound=Config)


@dataclass(frozen=True)
class Run:
    """The inputs of a stage of a method.

    Attributes:
      dataset: users, campaigns and examples.
      campaigns: indices of the training campaigns.
      seed: random seed of initial values, batches and orders.
      directory: folder for checkpoints of the offline stage; None for no checkpoints.
      hooks: take the records of the offline stage; see `training.loop`.
      progress: receives the progress of each stage.
      held_out: indices of the held-out campaigns, which determine when the offline stage stops or
        what it uses; empty if there are none.
      judge: judges a state of the offline stage on these campaigns; None if there are none.
      start: the general model that the offline stage continues from; None to start afresh.
      label: name of the training in records and progress.
      mesh: the devices that share the work; None for one device.
      lengths: adds list lengths to users, as the dataset has them; None if it has none.
    """

    dataset: Dataset
    campaigns: np.ndarray
    seed: int
    directory: Path | None = None
    hooks: Sequence[Hook] = ()
    progress: Progress = silent
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    judge: Callable[[State], Quality] | None = None
    start: General | None = None
    label: str = ""
    mesh: Mesh | None = None
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

    A program adds its own by `register`.

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
        """Learns from stage 1 of the training campaigns: the offline stage.

        It resumes from the run's checkpoints.
        """

    @abstractmethod
    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> Sequence[Scorer]:
        """Customises a model to each campaign, from its examples: the online stage."""

    def changed(self, **changes: Any) -> Self:
        """Changes some settings, in a copy; see `Config.changed`."""
        return type(self)(self.config.changed(changes))

    @property
    def min_campaigns(self) -> int:
        """The number of training campaigns that the offline stage needs."""
        return 1

    @property
    def holds_out(self) -> bool:
        """Whether held-out campaigns determine when the offline stage stops, or what it uses."""
        return False


#: The classes of methods by name.
METHODS: dict[str, type[Method[Any]]] = {}
M = TypeVar("M", bound=Method[Any])


def register(method: type[M]) -> type[M]:
    """Adds a class to `METHODS`, so that its models can be used; for use as a decorator."""
    METHODS[method.name] = method
    return method


def method_of(general: General) -> Method[Any]:
    """Finds the method that trained a general model, with the config of that training.

    Raises:
      InputError: no method has its name, or the method has other settings.
    """
    if general.method not in METHODS:
        raise InputError(
            f"the general model is of the method {general.method!r}, which this program does not "
            "have; import the module that registers it"
        )
    kind = METHODS[general.method]
    with about(f"the general model of {general.method!r}"):
        return kind(type(kind().config).of_plain(general.config))


class GradientMethod(Method[C]):
    """A method whose offline stage takes gradient steps, and can continue from a model."""

    @property
    def min_campaigns(self) -> int:
        """The number of campaigns in a meta-step."""
        return self.config["campaigns_per_step"]

    @property
    def holds_out(self) -> bool:
        """Whether there is a patience, and an epoch to stop."""
        return bool(self.config["offline_epochs"] and self.config["offline_patience"])


class NetworkMethod(GradientMethod[C]):
    """A method whose state is the `Weights` of one network.

    One device or several train it.
    """

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network."""

    def general_scorers(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[AdaptedScorer]:
        """Scorers of the general model for these campaigns, before customising."""
        run, campaigns = lengthened(run, self.config["list_lengths"], campaigns)
        given = self.network, run.dataset.layout, Weights(**state)
        adapted = AdaptedWeights({}, np.empty(0, np.int32), given[2].table[:0])
        return [AdaptedScorer(*given, adapted, own.rows, run.lengths) for own in campaigns]


def lengthened(
    run: Run, wanted: bool, campaigns: Sequence[Campaign] = ()
) -> tuple[Run, Sequence[Campaign]]:
    """The run, and campaigns, on data with list lengths as user fields, if they are wanted."""
    if not wanted:
        return run, campaigns
    dataset, lengths = with_lengths(run.dataset)
    moved = [replace(own, rows=lengths.campaigns(own.rows)) for own in campaigns]
    return replace(run, dataset=dataset, lengths=lengths), moved


def adapt_each(
    run: Run,
    network: Network,
    weights: Weights,
    campaigns: Sequence[Campaign],
    adapt: Callable[[Batch], AdaptedWeights],
    kind: type[AdaptedScorer] = AdaptedScorer,
) -> list[AdaptedScorer]:
    """Adapts general weights to the examples of one campaign after another; returns scorers.

    Raises:
      Diverged: an adapted parameter of the network is not finite.
    """
    dataset, models = run.dataset, list[AdaptedScorer]()
    given = network, dataset.layout, weights
    for number, campaign in enumerate(campaigns):
        examples = campaign_examples(dataset, campaign)
        adapted = adapt(examples)
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapted.network)):
            raise Diverged(f"{campaign.name}: the adapted weights are not finite")
        models.append(kind(*given, adapted, campaign.rows, run.lengths))
        run.progress("customise", number + 1, len(campaigns))
    return models
