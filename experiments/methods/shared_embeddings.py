"""MLP+emb: embeddings shared by all campaigns, and on them a new MLP for a new campaign."""

from __future__ import annotations

import functools

import jax
import numpy as np

from experiments.methods.fine_tuned import (
    FROM_NOTHING,
    TUNED,
    fine_tune,
    train_general,
    untrained,
)
from experiments.methods.method import Job, Method, Scorer, Watch
from metaheac_jax.baselines import MLP, OnFrozenFields
from metaheac_jax.offline import General


def fit_new(
    job: Job,
    general: General,
    campaigns: np.ndarray,
    watch: Watch | None = None,
    *,
    frozen: bool = True,
) -> list[Scorer]:
    """An MLP learned from nothing for each campaign, on the general model's embeddings.

    Args:
      job, general, campaigns, watch: see `method.Online`; of ``general`` the table alone is used.
      frozen: the embeddings stay as they are, which the paper leaves open; otherwise those that
        the campaign's examples touch are fine-tuned with the MLP.
    """
    # Not the key of the offline stage: the table has grown up with the MLP that came from that.
    key = jax.random.fold_in(jax.random.key(job.seed), 1)
    network = OnFrozenFields(MLP()) if frozen else MLP()
    new = General(untrained(job, network, key).network, general.table)
    return fine_tune(lambda _: network, job, new, campaigns, watch)


METHODS = {
    "mlp-embeddings": Method(
        label="MLP+emb",
        offline=functools.partial(train_general, lambda _: MLP(), "plain", "MLP+emb"),
        online=fit_new,
        # As the other MLP that is learned from nothing, MLP_one-stage.
        settings=FROM_NOTHING,
        tuned=TUNED,
        steps=True,
        work=(3 / 8, 2 / 8),  # online the gradient stops before the table
    ),
}
