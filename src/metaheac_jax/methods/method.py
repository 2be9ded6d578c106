"""The interface of a method: training on many campaigns, and customising to new ones."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, NamedTuple, Self, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from metaheac_jax.boundary import Columns
from metaheac_jax.customising.score import (
    ProgramScorer,
    head_scorers,
    network_scorers,
    scorers_after,
)
from metaheac_jax.data.batches import Batch, campaign_examples
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import Diverged, InputError, about
from metaheac_jax.methods.config import Config, GradientConfig
from metaheac_jax.model import (
    AdaptedWeights,
    General,
    Judgement,
    Scorer,
    State,
    Weights,
    weight_columns,
)
from metaheac_jax.networks import HeadNetwork, Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.training.loop import Hook, Judge

ConfigT = TypeVar("ConfigT", bound=Config)
GradientConfigT = TypeVar("GradientConfigT", bound=GradientConfig)
#: The entry points that name methods of other packages: NAME = "MODULE:CLASS".
ENTRY_POINTS = "metaheac_jax.methods"


@dataclass(frozen=True)
class Offline:
    """What the offline stage of a method is given.

    Attributes:
      dataset: users, campaigns and examples.
      campaigns: indices of the training campaigns.
      seed: random seed of initial values, batches and orders.
      held_out: indices of the held-out campaigns, which determine when the stage stops or what it
        uses; empty if there are none.
      judge: judges a state on these campaigns; None if there are none.
      start: the general model that training continues from; None to start afresh.
      directory: folder for checkpoints; None for no checkpoints.
      mesh: the devices that share the work; None for one device.
      label: name of the training in records and progress.
      hooks: take the records; see `training.loop`.
      progress: receives the progress.
    """

    dataset: Dataset
    campaigns: np.ndarray
    seed: int
    held_out: np.ndarray = field(default_factory=lambda: np.empty(0, int))
    judge: Judge | None = None
    start: General | None = None
    directory: Path | None = None
    mesh: Mesh | None = None
    label: str = ""
    hooks: Sequence[Hook] = ()
    progress: Progress = silent

    def lengthened(self, wanted: bool) -> Offline:
        """Adds list lengths to the data as user fields, if they are wanted."""
        return replace(self, dataset=self.dataset.lengthened()[0]) if wanted else self


@dataclass(frozen=True)
class Online:
    """What the online stage of a method is given, besides a state and campaigns.

    Attributes:
      dataset: users and examples.
      seed: random seed of orders and of examples that are held out.
      progress: receives the progress.
    """

    dataset: Dataset
    seed: int
    progress: Progress = silent

    def lengthened(
        self, wanted: bool, campaigns: Sequence[Campaign]
    ) -> tuple[Online, Sequence[Campaign]]:
        """Adds list lengths to the data and to campaigns as user fields, if they are wanted."""
        if not wanted:
            return self, campaigns
        dataset, lengths = self.dataset.lengthened()
        moved = [replace(campaign, rows=lengths.campaigns(campaign.rows)) for campaign in campaigns]
        return replace(self, dataset=dataset), moved


class Trained(NamedTuple):
    """The result of the offline stage.

    Attributes:
      state: what the method learned.
      judgements: each judgement on held-out campaigns.
      optimizer: the optimiser's state, as in `General`; None for a method that takes no steps.
    """

    state: State
    judgements: tuple[Judgement, ...] = ()
    optimizer: State | None = None


class Method(ABC, Generic[ConfigT]):
    """A way to train a general model and to customise it.

    A program adds its own by `register`, and a package by an entry point; see `method_named`.

    Attributes:
      name: name for commands, which models are saved with.
      label: name for tables.
      default: the config of a method without one.
      config: settings of both stages.
      continues: whether training can continue from a general model.
      takes_mesh: whether several devices can share the training.
    """

    name: str
    label: str
    default: ConfigT
    continues = False
    takes_mesh = False

    def __init__(self, config: ConfigT | None = None) -> None:
        self.config: ConfigT = self.default if config is None else config

    @abstractmethod
    def train(self, offline: Offline) -> Trained:
        """Learns from stage 1 of the training campaigns: the offline stage.

        It resumes from checkpoints.
        """

    @abstractmethod
    def adapt(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[Scorer]:
        """Customises a model to each campaign, from its examples: the online stage."""

    def general_scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[Scorer]:
        """Makes scorers of the general model, before customising; none if it cannot score."""
        del online, state, campaigns
        return ()

    def columns(self, online: Online, arrays: Mapping[str, Any]) -> Columns:
        """Says what the arrays of a state must be for the data, as far as it is known."""
        del online, arrays
        return {}

    def fit(self, offline: Offline) -> Trained:
        """Calls `train`, with list lengths as user fields if the config has them."""
        return self.train(offline.lengthened(self._has_lengths))

    def customise(
        self,
        online: Online,
        state: State,
        campaigns: Sequence[Campaign],
        *,
        general: bool = False,
    ) -> Sequence[Scorer]:
        """Calls `adapt`, or `general_scorers`, with list lengths as `fit` does.

        Users are scored without them.
        """
        longer, moved = online.lengthened(self._has_lengths, campaigns)
        stage = self.general_scorers if general else self.adapt
        scorers = stage(longer, state, moved)
        return scorers_after(longer.dataset.user_rows.lengths, scorers)

    @property
    def _has_lengths(self) -> bool:
        return getattr(self.config, "list_lengths", False)

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


#: The classes of methods by name; those of other packages are added when they are first used.
METHODS: dict[str, type[Method[Any]]] = {}
MethodT = TypeVar("MethodT", bound=Method[Any])


def register(method: type[MethodT]) -> type[MethodT]:
    """Adds a class to `METHODS`, so that its models can be used; for use as a decorator."""
    METHODS[method.name] = method
    return method


def method_named(name: str) -> type[Method[Any]]:
    """Finds a method by name: one in `METHODS`, or else one of the `ENTRY_POINTS`.

    Raises:
      InputError: there is none, or its package cannot be imported.
    """
    if name not in METHODS:
        found = entry_points(group=ENTRY_POINTS)
        if name not in found.names:
            names = ", ".join([*METHODS, *sorted(found.names)])
            raise InputError(
                f"unknown method {name!r}; choose from {names}, or install or import what has it"
            )
        try:
            register(found[name].load())
            return METHODS[name]
        except Exception as error:  # whatever the package raises
            told = " ".join(f"{found[name].value}: {type(error).__name__}: {error}".split())
            raise InputError(f"method {name!r}: {told}; mend or remove its package") from error
    return METHODS[name]


def method_of(general: General) -> Method[Any]:
    """Finds the method that trained a general model, with the config of that training.

    Raises:
      InputError: no method has its name, or the method has other settings.
    """
    with about(f"the general model of {general.method!r}"):
        kind = method_named(general.method)
        return kind(type(kind().config).of_plain(general.config))


class GradientMethod(Method[GradientConfigT]):
    """A method whose offline stage takes gradient steps, and can continue from a model."""

    continues = True

    @property
    def min_campaigns(self) -> int:
        """The number of campaigns in a meta-step."""
        return self.config.campaigns_per_step

    @property
    def holds_out(self) -> bool:
        """Whether there is a patience, and an epoch to stop."""
        return bool(self.config.offline_epochs and self.config.offline_patience)


class NetworkMethod(GradientMethod[GradientConfigT]):
    """A method whose state is the `Weights` of one network.

    One device or several train it.
    """

    takes_mesh = True

    @property
    @abstractmethod
    def network(self) -> Network:
        """The network."""

    def columns(self, online: Online, arrays: Mapping[str, Any]) -> Columns:
        """Says what the weights of the network must be."""
        del arrays
        dataset = online.lengthened(self.config.list_lengths, ())[0].dataset
        size = {"num_rows": dataset.num_rows, "width": self.config.width}
        return weight_columns(self.network, dataset.layout, **size)

    def general_scorers(
        self, online: Online, state: State, campaigns: Sequence[Campaign]
    ) -> Sequence[ProgramScorer]:
        """See `Method.general_scorers`."""
        weights = Weights(**state)
        adapted = AdaptedWeights({}, np.empty(0, np.int32), weights.table[:0])
        each = [(adapted, campaign.rows) for campaign in campaigns]
        return network_scorers(self.network, online.dataset.layout, weights, each)


def adapt_each(
    online: Online,
    network: HeadNetwork,
    weights: Weights,
    campaigns: Sequence[Campaign],
    adapt: Callable[[Batch], AdaptedWeights],
) -> list[ProgramScorer]:
    """Adapts a network with a head to the examples of one campaign after another; returns scorers.

    Raises:
      Diverged: an adapted parameter of the network is not finite.
    """
    dataset, each = online.dataset, list[tuple[AdaptedWeights, np.ndarray]]()
    for number, campaign in enumerate(campaigns):
        adapted = adapt(campaign_examples(dataset, campaign))
        if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(adapted.network)):
            raise Diverged(f"{campaign.name}: the adapted weights are not finite")
        each.append((adapted, campaign.rows))
        online.progress("customise", number + 1, len(campaigns))
    return head_scorers(network, dataset.layout, weights, each)
