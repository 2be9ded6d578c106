"""MLP+emb: embeddings shared by all campaigns, and a new MLP on them for each new campaign."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods.fine_tuning import FROM_SCRATCH, TUNED, mlp_network
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.offline import build_offline, untrained
from metaheac_jax.methods.online import build_restore, fine_tune
from metaheac_jax.methods.stages import Run
from metaheac_jax.model import Scorer, State, Weights
from metaheac_jax.networks.mlp import MLP, OnFrozenFields
from metaheac_jax.settings import PAPER, Settings

_NEW_MLP = OnFrozenFields(MLP())


def mlp_embeddings(settings: Settings = PAPER) -> Method:
    """MLP+emb: an MLP trained from scratch on frozen shared embeddings (paper section 4.1).

    It has the online settings `FROM_SCRATCH`, whatever the settings say; `Method.with_settings`
    changes them.
    """
    return Method(
        name="mlp-embeddings",
        label="MLP+emb",
        settings=replace(settings, **FROM_SCRATCH),
        train=build_offline(mlp_network, "plain"),
        adapt=fit_new_mlp,
        restore=build_restore(lambda _: _NEW_MLP),
        tuned=TUNED,
        takes_steps=True,
        general_scores=False,
        work=(3 / 8, 2 / 8),  # online, the gradient stops before the table
    )


def fit_new_mlp(run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
    """Trains an MLP from scratch for each campaign, on the general model's embeddings."""
    # The offline stage drew its MLP and the table with the parts 0 and 1 of the key.
    key = jax.random.fold_in(jax.random.key(run.seed), 2)
    weights = Weights(untrained(run, _NEW_MLP, key).network, state["table"])
    return fine_tune(run, _NEW_MLP, weights, campaigns)
