"""MetaHeac: Algorithm 1 on all campaigns, then fine-tuning (paper section 3).

If a source does not state a value, a comment says where the value comes from.
"""

from __future__ import annotations

from dataclasses import dataclass

from metaheac_jax.methods.method import Run, Trained, lengthened, register
from metaheac_jax.methods.offline import train_on_campaigns, untrained
from metaheac_jax.methods.pretraining import WithoutMeta, WithoutMetaConfig
from metaheac_jax.networks import Network
from metaheac_jax.table.layout import Layout
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import Reduction, build_loss
from metaheac_jax.training.meta import MetaGradient, build_meta_gradient
from metaheac_jax.training.step import Gradient


@dataclass(frozen=True)
class MetaHeacConfig(WithoutMetaConfig):
    """Settings of MetaHeac; the defaults are those of the paper's section 4.1.

    Attributes:
      reduction: see `Reduction`.
      disjoint: whether support and query share no example.
      inner_learning_rate: alpha, for a loss with this reduction; 0 takes no inner step.
    """

    reduction: Reduction = "sum"
    disjoint: bool = True
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


@register
class MetaHeacMethod(WithoutMeta[MetaHeacConfig]):
    """MetaHeac: Algorithm 1, then fine-tuning (paper section 3)."""

    name, label, default = "metaheac", "MetaHeac", PAPER

    def gradient(self, layout: Layout) -> Gradient[...]:
        """Builds Algorithm 1's gradient, on ids of this layout."""
        config = self.config
        return meta_gradient(self.network, layout, config.reduction, config.inner_learning_rate)

    def fit(self, run: Run) -> Trained:
        """Trains on support and query sets of the campaigns."""
        run, _ = lengthened(run, self.config.list_lengths)
        return train_on_campaigns(
            run,
            self.config,
            untrained(run, self.config, self.network),
            self.gradient(run.dataset.layout),
            disjoint=self.config.disjoint,
            reduction=self.config.reduction,
        )


def meta_gradient(
    network: Network, layout: Layout, reduction: Reduction, inner_learning_rate: float
) -> MetaGradient:
    """Algorithm 1's gradient of a network; without an inner step if its learning rate is 0."""
    return build_meta_gradient(
        build_loss(network, layout, reduction=reduction),
        inner_learning_rate=inner_learning_rate,
        inner_steps=1 if inner_learning_rate else 0,
        reduction=reduction,
        select=select_rows,
    )
