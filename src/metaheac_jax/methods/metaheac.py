"""MetaHeac: Algorithm 1 on all campaigns, then fine-tuning (paper section 3); and its ablation."""

from __future__ import annotations

from dataclasses import dataclass

from metaheac_jax.methods.config import setting
from metaheac_jax.methods.method import Offline, Trained, register
from metaheac_jax.methods.offline import campaign_sampler, train_rows, untrained
from metaheac_jax.methods.pretraining import FineTuningConfig, PretrainedMethod
from metaheac_jax.networks import MetaHeac
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import Reduction, build_loss
from metaheac_jax.training.meta_step import build_meta_gradient
from metaheac_jax.training.step import Gradient


@dataclass(frozen=True)
class MixtureConfig(FineTuningConfig):
    """Settings of a method with MetaHeac's network, whose sizes are those of the authors' program.

    The paper tunes both in [3, 10].
    """

    num_experts: int = setting(8, shapes=True)
    """n, the number of experts."""
    num_critics: int = setting(5, shapes=True)
    """m, the number of critics."""

    @property
    def network(self) -> MetaHeac:
        """MetaHeac's network."""
        return MetaHeac(self.num_experts, self.num_critics)


@dataclass(frozen=True)
class MetaHeacConfig(MixtureConfig):
    """Settings of MetaHeac; the defaults are those of the paper's section 4.1."""

    reduction: Reduction = setting("sum", official="mean")
    """See `Reduction`."""
    disjoint: bool = setting(True, official=False)
    """Whether support and query share no example."""
    inner_learning_rate: float = setting(0.001, official=0.0002)
    """alpha, for a loss with this reduction; 0 takes no inner step."""


#: Settings of the paper, and of the authors' program.
PAPER = MetaHeacConfig()
OFFICIAL = PAPER.official()


@register
class WithoutMeta(PretrainedMethod[MixtureConfig]):
    """MetaHeac's network with plain training offline (paper, Table 4)."""

    name, label, default = "without-meta", "MetaHeac w/o Meta", MixtureConfig()

    @property
    def network(self) -> MetaHeac:
        """MetaHeac's network."""
        return self.config.network


@register
class MetaHeacMethod(PretrainedMethod[MetaHeacConfig]):
    """MetaHeac: Algorithm 1, then fine-tuning (paper section 3)."""

    name, label, default = "metaheac", "MetaHeac", PAPER

    @property
    def network(self) -> MetaHeac:
        """MetaHeac's network."""
        return self.config.network

    def gradient(self, layout: Layout) -> Gradient[...]:
        """Builds Algorithm 1's gradient, on ids of this layout."""
        config = self.config
        return build_meta_gradient(
            build_loss(self.network, layout, reduction=config.reduction),
            inner_learning_rate=config.inner_learning_rate,
            inner_steps=1 if config.inner_learning_rate else 0,
            reduction=config.reduction,
            select=select_rows,
        )

    def train(self, offline: Offline) -> Trained:
        """Trains on support and query sets of the campaigns."""
        weights, config = untrained(offline, self.config, self.network), self.config
        gradient = self.gradient(offline.dataset.layout)
        sampler = campaign_sampler(offline, config, disjoint=config.disjoint)
        reduction = config.reduction
        return train_rows(offline, config, weights, gradient, sampler, reduction=reduction)
