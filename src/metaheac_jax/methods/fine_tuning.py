"""Methods whose online stage fine-tunes a whole network on the examples of a campaign."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from metaheac_jax.methods.list_lengths import with_list_lengths
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.offline import Offline, build_offline
from metaheac_jax.methods.online import build_fine_tuning, build_restore
from metaheac_jax.networks.base import BuildNetwork
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.networks.mlp import MLP
from metaheac_jax.settings import PAPER, Settings

#: Settings to tune in a method with gradient steps in both stages.
TUNED = (
    "outer_learning_rate",  # first, since slow training hides the effect of the others
    "value_dropout",
    "online_learning_rate",
    "table_scale",
    "weight_decay",
)
#: n and m, to tune in a method with several experts and critics.
SIZES = ("num_experts", "num_critics")
#: Patience, in epochs, of models that are trained from scratch.
ONE_STAGE_PATIENCE = 3
#: Online settings of an MLP that is trained from scratch.
FROM_SCRATCH: dict[str, Any] = {
    "online_learning_rate": 0.003,
    "online_epochs": 30,
    "online_patience": ONE_STAGE_PATIENCE,
}


def metaheac_network(settings: Settings) -> MetaHeac:
    """MetaHeac's network with these settings."""
    return MetaHeac(
        num_experts=settings.num_experts,
        num_critics=settings.num_critics,
        mixture=settings.mixture,
    )


def mlp_network(settings: Settings) -> MLP:
    """The MLP, which has no settings."""
    del settings
    return MLP()


def metaheac(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MetaHeac: Algorithm 1, then fine-tuning (paper section 3)."""
    method = _pre_trained(
        "metaheac", "MetaHeac", settings, metaheac_network, "meta", work=1, lengths=lengths
    )
    return replace(method, tuned=(*TUNED, "inner_learning_rate", *SIZES))


def without_meta(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MetaHeac's network with plain training offline (paper, Table 4)."""
    label = "MetaHeac w/o Meta"
    method = _pre_trained(
        "without-meta", label, settings, metaheac_network, "plain", work=1, lengths=lengths
    )
    return replace(method, tuned=(*TUNED, *SIZES))


def alpha_zero(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MetaHeac with the batches of the meta-step but without an inner step, as a control."""
    label = "MetaHeac, alpha = 0"
    method = _pre_trained(
        "alpha-0", label, settings, metaheac_network, "batches", work=1, lengths=lengths
    )
    return replace(method, tuned=(*TUNED, *SIZES))


def without_hc(settings: Settings = PAPER) -> Method:
    """MetaHeac with one critic (paper, Table 4)."""
    settings, label = replace(settings, num_critics=1), "MetaHeac w/o HC (one critic)"
    method = _pre_trained("without-hc", label, settings, metaheac_network, "meta", work=1)
    return replace(method, tuned=(*TUNED, "inner_learning_rate", "num_experts"))


def without_he(settings: Settings = PAPER) -> Method:
    """MetaHeac with one expert (paper, Table 4)."""
    settings, label = replace(settings, num_experts=1), "MetaHeac w/o HE (one expert)"
    method = _pre_trained("without-he", label, settings, metaheac_network, "meta", work=1 / 8)
    return replace(method, tuned=(*TUNED, "inner_learning_rate", "num_critics"))


def mlp_pretraining(settings: Settings = PAPER, *, lengths: bool = False) -> Method:
    """MLP+pre-training: plain training offline, then fine-tuning (paper section 4.1)."""
    label = "MLP+pre-training"
    return _pre_trained(
        "mlp-pretraining", label, settings, mlp_network, "plain", work=1 / 8, lengths=lengths
    )


def mlp_one_stage(settings: Settings = PAPER) -> Method:
    """MLP_one-stage: an MLP trained from scratch on the campaign's examples (paper section 4.1).

    It has the online settings `FROM_SCRATCH`, whatever the settings say; `Method.with_settings`
    changes them.
    """
    return Method(
        name="mlp-one-stage",
        label="MLP_one-stage",
        settings=replace(settings, **FROM_SCRATCH),
        train=build_offline(mlp_network, "none"),
        adapt=build_fine_tuning(mlp_network),
        restore=build_restore(mlp_network),
        tuned=("online_learning_rate",),
        work=(0, 3 / 8),
    )


def _pre_trained(
    name: str,
    label: str,
    settings: Settings,
    build_network: BuildNetwork,
    offline: Offline,
    *,
    work: float,
    lengths: bool = False,
) -> Method:
    """A method that trains a network offline in the given way and fine-tunes all of it online.

    ``work`` is the arithmetic cost of a forward pass per example, as a multiple of MetaHeac's. With
    ``lengths``, list lengths are fields too.
    """
    passes = {"plain": 3, "batches": 1.5, "meta": 6}[offline]
    method = Method(
        name=name,
        label=label,
        settings=settings,
        train=build_offline(build_network, offline),
        adapt=build_fine_tuning(build_network),
        restore=build_restore(build_network),
        tuned=TUNED,
        takes_steps=True,
        splits=True,
        meshes=True,
        work=(passes * work, 3 * work),
    )
    if not lengths:
        return method
    longer = with_list_lengths(method)
    return replace(longer, name=f"{name}-lengths", label=f"{label}, with list lengths")
