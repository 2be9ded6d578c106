"""The fine-tuning of one campaign, step by step (Figure 3 a, b of the paper)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from metaheac_jax.audience.evaluation import pool_rows
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import Diverged
from metaheac_jax.methods import Method
from metaheac_jax.model import General, Scorer
from metaheac_jax.progress import Progress
from metaheac_jax.ranking import auc

#: Methods whose fine-tuning is drawn.
CURVES = ("mlp-one-stage", "hubble", "mmoe", "metaheac")
STEPS = (*range(0, 100, 10), *range(100, 1001, 50))


def curve_campaign(dataset: Dataset, judged: Sequence[Mapping[str, Any]]) -> int:
    """The index of the campaign to draw: the median by seeds among the small judged ones."""
    able = [c for c in judged if c["group"] == "small"] or judged
    median = sorted(able, key=lambda c: c["seeds"])[len(able) // 2]
    return [plain_id(value) for value in dataset.campaign_ids].index(median["campaign"])


def fine_tuning_curve(
    method: Method,
    general: General,
    dataset: Dataset,
    campaign: int,
    *,
    seed: int,
    progress: Progress,
) -> dict[str, Any] | None:
    """Loss on a campaign's examples and AUC on its pool at `STEPS` of fine-tuning.

    Examples are scored in the same way as users of the pool; in training, the graph network would
    not let them attend to themselves. Returns None if a method does not adapt by gradient descent.
    The curve ends where weights or scores are no longer finite, since early stopping is off.
    """
    own = dataset.campaign(campaign)
    examples = campaign_examples(dataset, own)
    users, labels = pool_rows(dataset, campaign), dataset.stage2.label[dataset.stage2.of(campaign)]
    curve: dict[str, Any] = {"campaign": own.id, "steps": [], "loss": [], "auc": []}

    def note(step: int, models: Callable[[], list[Scorer]]) -> None:
        last = STEPS[-1]
        progress(f"{method.label} fine-tuning curve", min(step, last), last)
        if step in STEPS:
            [model] = models()
            log_odds = model(examples.ids.user).astype(np.float64)
            if not np.isfinite(log_odds).all():
                raise Diverged("a score is not finite")
            curve["steps"].append(step)
            curve["loss"].append(
                float(np.mean(np.logaddexp(0, log_odds) - examples.label * log_odds))
            )
            curve["auc"].append(auc(model(users), labels))

    per_epoch = math.ceil(len(examples.label) / method.settings.batch_size)
    epochs = math.ceil(STEPS[-1] / per_epoch)
    to_the_end = method.with_settings(online_epochs=epochs, online_patience=None)
    with suppress(Diverged):
        to_the_end.customise(general, dataset, [own], seed=seed, watch=note)
    return curve if curve["steps"] else None
