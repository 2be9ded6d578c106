"""Methods whose online stage fine-tunes a whole network on the examples of a campaign.

If a source does not state a value, a comment says where the value comes from.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from metaheac_jax.customising.score import AdaptedScorer
from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.method import Run, Trained, lengthened
from metaheac_jax.methods.offline import train_on_campaigns, train_plain, untrained
from metaheac_jax.methods.online import FineTuningConfig, NetworkMethod, fine_tune
from metaheac_jax.model import State, Weights
from metaheac_jax.networks.base import Network
from metaheac_jax.networks.metaheac import MetaHeac, Mixture
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import Reduction, build_loss
from metaheac_jax.training.meta import MetaGradient, build_meta_gradient
from metaheac_jax.training.step import Gradient


@dataclass(frozen=True)
class PretrainingConfig(FineTuningConfig):
    """Settings of MLP+pre-training.

    Attributes:
      list_lengths: whether list lengths are user fields too; see `data.list_lengths`.
    """

    tuned: ClassVar[tuple[str, ...]] = (
        "outer_learning_rate",  # first, since slow training hides the effect of the others
        "value_dropout",
        "online_learning_rate",
        "table_scale",
        "weight_decay",
    )

    list_lengths: bool = False


@dataclass(frozen=True)
class WithoutMetaConfig(PretrainingConfig):
    """Settings of MetaHeac's network with plain training.

    Attributes:
      num_experts: n, the number of experts.
      num_critics: m, the number of critics.
      mixture: see `Mixture`.
    """

    tuned: ClassVar[tuple[str, ...]] = (*PretrainingConfig.tuned, "num_experts", "num_critics")

    num_experts: int = 8  # the paper tunes n and m in [3, 10]; these are the program's
    num_critics: int = 5
    mixture: Mixture = "sum"  # with softmax weights the printed 1/m would bound p by 1/m


@dataclass(frozen=True)
class AlphaZeroConfig(WithoutMetaConfig):
    """Settings of MetaHeac without an inner step.

    Attributes:
      reduction: see `Reduction`.
      disjoint: whether support and query share no example.
    """

    reduction: Reduction = "sum"
    disjoint: bool = True


@dataclass(frozen=True)
class MetaHeacConfig(AlphaZeroConfig):
    """Settings of MetaHeac; the defaults are those of the paper's section 4.1.

    Attributes:
      inner_learning_rate: alpha, for a loss with this reduction; 0 takes no inner step.
    """

    tuned: ClassVar[tuple[str, ...]] = (
        *PretrainingConfig.tuned,
        *("inner_learning_rate", "num_experts", "num_critics"),
    )

    inner_learning_rate: float = 0.001


#: Settings of the paper.
PAPER = MetaHeacConfig()
#: Settings of the authors' program.
OFFICIAL = MetaHeacConfig(
    width=64,
    reduction="mean",
    inner_learning_rate=0.0002,
    disjoint=False,
    offline_epochs=1,
    offline_patience=None,
    online_epochs=2,
    online_patience=None,
)
F = TypeVar("F", bound=PretrainingConfig)


class FineTunedMethod(NetworkMethod[F]):
    """A method that trains a network offline, and fine-tunes all of it online."""

    @abstractmethod
    def train(self, run: Run) -> Trained:
        """The offline stage, on data that has list lengths if they are wanted."""

    def fit(self, run: Run) -> Trained:
        """See `Method.fit`."""
        return self.train(lengthened(run, self.config.list_lengths)[0])

    def customise(
        self, run: Run, state: State, campaigns: Sequence[Campaign]
    ) -> list[AdaptedScorer]:
        """See `Method.customise`."""
        run, campaigns = lengthened(run, self.config.list_lengths, campaigns)
        return fine_tune(run, self.config, self.network, Weights(**state), campaigns)


class PretrainedMLP(FineTunedMethod[PretrainingConfig]):
    """MLP+pre-training: plain training offline, then fine-tuning (paper section 4.1)."""

    name, label, default = "mlp-pretraining", "MLP+pre-training", PretrainingConfig()

    @property
    def network(self) -> MLP:
        """The MLP, which has no settings."""
        return MLP()

    def train(self, run: Run) -> Trained:
        """See `FineTunedMethod.train`."""
        return train_plain(run, self.config, self.network)


W = TypeVar("W", bound=WithoutMetaConfig)
A = TypeVar("A", bound=AlphaZeroConfig)


class WithoutMeta(FineTunedMethod[W]):
    """MetaHeac's network with plain training offline (paper, Table 4)."""

    name, label, default = "without-meta", "MetaHeac w/o Meta", WithoutMetaConfig()

    @property
    def network(self) -> MetaHeac:
        """MetaHeac's network."""
        config = self.config
        return MetaHeac(config.num_experts, config.num_critics, mixture=config.mixture)

    def train(self, run: Run) -> Trained:
        """See `FineTunedMethod.train`."""
        return train_plain(run, self.config, self.network)


class AlphaZero(WithoutMeta[A]):
    """MetaHeac with the batches of the meta-step but without an inner step, as a control.

    It draws the same examples; those of support sets do not affect the gradient.
    """

    name, label, default = "alpha-0", "MetaHeac, alpha = 0", AlphaZeroConfig()

    def gradient(self, layout: Layout) -> Gradient[...]:
        """The gradient of the meta-loss, on ids of this layout."""
        return meta_gradient(self.network, layout, self.config.reduction)

    def train(self, run: Run) -> Trained:
        """See `FineTunedMethod.train`."""
        config, gradient = self.config, self.gradient(run.dataset.layout)
        weights = untrained(run, config, self.network)
        disjoint, reduction = config.disjoint, config.reduction
        return train_on_campaigns(
            run, config, weights, gradient, disjoint=disjoint, reduction=reduction
        )


class MetaHeacMethod(AlphaZero[MetaHeacConfig]):
    """MetaHeac: Algorithm 1, then fine-tuning (paper section 3)."""

    name, label, default = "metaheac", "MetaHeac", PAPER

    def gradient(self, layout: Layout) -> Gradient[...]:
        """Algorithm 1's gradient."""
        config = self.config
        return meta_gradient(self.network, layout, config.reduction, config.inner_learning_rate)


def meta_gradient(
    network: Network, layout: Layout, reduction: Reduction, inner_learning_rate: float = 0.0
) -> MetaGradient:
    """Algorithm 1's gradient of a network; without an inner step if its learning rate is 0."""
    return build_meta_gradient(
        build_loss(network, layout, reduction=reduction),
        inner_learning_rate=inner_learning_rate,
        inner_steps=1 if inner_learning_rate else 0,
        reduction=reduction,
        select=select_rows,
    )
