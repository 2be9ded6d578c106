"""Quality of audiences for campaigns that a general model does not know (paper section 4.1).

A campaign is customised as `retrieve.expand` does it. Its users of stage 2, of whom it is known who
converted, are its pool.

Axes: P users of a campaign's pool, S slots of a user, G campaigns.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from metaheac_jax.audience.gains import Gain, TextTable, gains_of, gains_table
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.splits import Split, small_campaigns
from metaheac_jax.errors import InputError
from metaheac_jax.methods import Method, customise, method_of
from metaheac_jax.model import General
from metaheac_jax.progress import Progress, silent
from metaheac_jax.ranking import Metrics, auc, campaign_metrics, top

PERCENT = 5.0  # K of P@K% and R@K%
_GROUPS = {"small": "at most", "large": "more than"}  # the threshold of seeds


def pool_rows(dataset: Dataset, campaign: int) -> np.ndarray:
    """(P, S) table rows of the users in a campaign's pool, which is its stage 2."""
    return dataset.user_rows[dataset.stage2.user[dataset.stage2.of(campaign)]]


class PoolScores(NamedTuple):
    """Scores of the pools of several campaigns.

    Attributes:
      scores: (P,) scores per campaign.
      customise_seconds, score_seconds: time spent on customising and on scoring.
    """

    scores: list[np.ndarray]
    customise_seconds: float
    score_seconds: float


def score_pools(
    method: Method[Any],
    general: General,
    dataset: Dataset,
    campaigns: Sequence[int] | np.ndarray,
    *,
    seed: int = 0,
    progress: Progress = silent,
) -> PoolScores:
    """Customises a general model to campaigns and scores their pools.

    Args:
      method: the method that trained the general model.
      general: the general model.
      dataset: the data with the campaigns; stage 1 is for customising, stage 2 for scoring.
      campaigns: (G,) campaign indices.
      seed: random seed of non-seeds and of customising.
      progress: receives the number of campaigns done.

    Raises:
      InputError: a campaign has no stage-1 examples, or the data does not fit the model.
      Diverged: a score is not a number.
    """
    began = time.perf_counter()
    wanted = [dataset.campaign(int(c), seed=seed) for c in campaigns]
    models = customise(general, dataset, wanted, method=method, seed=seed, progress=progress)
    adapted, scores = time.perf_counter(), []
    for c, model in zip(campaigns, models, strict=True):
        scores.append(model.score(pool_rows(dataset, c)))
        progress("score", len(scores), len(models))
    return PoolScores(scores, adapted - began, time.perf_counter() - adapted)


def judge_all(
    dataset: Dataset, split: Split, scores: Sequence[np.ndarray], *, label: str
) -> dict[str, Any]:
    """Metrics of every test campaign, from the scores of its pool.

    Args:
      dataset: the data; its stage 2 has the pools.
      split: the split with the test campaigns.
      scores: (P,) scores of each test campaign's pool.
      label: label of the method.

    Returns:
      ``label``, ``campaigns`` (one entry per judged campaign), ``left_out`` (the campaigns that
      cannot be judged, with the reason), and ``pooled_auc`` per group.
    """
    campaigns, left_out = [], []
    pooled: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {"small": [], "large": []}
    seeds = dataset.stage1.positives
    for c, values in zip(split.test, scores, strict=True):
        of = dataset.stage2.of(c)
        labels, own = dataset.stage2.label[of], plain_id(dataset.campaign_ids[c])
        verdict = campaign_metrics(
            values, labels, dataset.user_ids[dataset.stage2.user[of]], PERCENT
        )
        if isinstance(verdict, str):
            left_out.append({"campaign": own, "why": verdict})
            continue
        group = "small" if split.small[c] else "large"
        pooled[group].append((values, labels))
        campaigns.append(
            {"campaign": own, "seeds": int(seeds[c]), "group": group, **verdict._asdict()}
        )
    return {
        "label": label,
        "campaigns": campaigns,
        "left_out": left_out,
        "pooled_auc": {
            group: auc(*(np.concatenate(side) for side in zip(*pairs, strict=True)))
            for group, pairs in pooled.items()
            if pairs
        },
    }


@dataclass(frozen=True)
class Evaluation:
    """The quality of a general model's audiences.

    Attributes:
      method: label of the method.
      data, model: digests of the data and of the model; None if they are in no folder.
      threshold: the largest number of seeds of a small seed set.
      campaigns: per campaign its id (``campaign``), ``seeds``, ``group`` (small or large seed set),
        ``auc``, ``precision`` and ``recall``; see `judge_all`.
      left_out: the campaigns that could not be judged, with the reason (``why``).
      gains: converts by decile of all campaigns.
      num_known: number of the campaigns that the model was trained on or stopped by.
      against: per group ``campaigns``, the number of those that another model was judged on too,
        and if there are any, per metric the ``mean`` difference and its standard ``error`` over
        these campaigns (None for one campaign). The error does not include what another training
        of the same model would change. None without another model.
    """

    method: str
    data: str | None
    model: str | None
    threshold: int
    campaigns: Sequence[Mapping[str, Any]]
    left_out: Sequence[Mapping[str, Any]]
    gains: Sequence[Gain]
    num_known: int
    against: Mapping[str, Mapping[str, Any]] | None = None

    def means(self, group: str) -> Metrics | None:
        """Mean metrics of a group of campaigns; None if it has none."""
        own = [[c[m] for m in Metrics._fields] for c in self.campaigns if c["group"] == group]
        return Metrics(*np.mean(own, axis=0).tolist()) if own else None

    def compare(self, other: Any) -> Evaluation:
        """The evaluation with ``against``: how much higher the metrics are than another model's.

        Args:
          other: `to_json` of the evaluation of the other model.

        Raises:
          InputError: ``other`` is no evaluation, or has none of the campaigns.
        """
        try:
            known = {
                own["campaign"]: [float(own[m]) for m in Metrics._fields]
                for own in other["campaigns"]
            }
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(
                "no results of metaheac evaluate; give a file from its --out"
            ) from error
        both = [own for own in self.campaigns if own["campaign"] in known]
        if not both:
            raise InputError(
                f"has results for none of the {len(self.campaigns)} campaigns; evaluate that model "
                "on the same campaigns"
            )
        against: dict[str, dict[str, Any]] = {}
        for group in _GROUPS:
            members = [own for own in both if own["group"] == group]
            against[group] = {"campaigns": len(members)}
            for number, name in enumerate(Metrics._fields if members else ()):
                change = np.array([c[name] - known[c["campaign"]][number] for c in members])
                root = math.sqrt(len(change))
                error = float(change.std(ddof=1)) / root if len(change) > 1 else None
                against[group][name] = {"mean": float(change.mean()), "error": error}
        return replace(self, against=against)

    def tables(self) -> list[TextTable]:
        """Mean metrics by group, differences and gains as text."""
        header = ["seed sets", "campaigns", "AUC", f"P@{PERCENT:g}%", f"R@{PERCENT:g}%"]
        rows, differences = [], []
        for group, sign in _GROUPS.items():
            name, means = f"{sign} {self.threshold:,} seeds", self.means(group)
            count = sum(own["group"] == group for own in self.campaigns)
            if means is not None:
                rows.append([name, str(count), *(f"{value:.4f}" for value in means)])
            found = {} if self.against is None else self.against[group]
            if len(found) > 1:
                cells = [_difference(found[m]) for m in Metrics._fields]
                differences.append([name, str(found["campaigns"]), *cells])
        tables = [TextTable(self.method, header, rows, 1)]
        if differences:
            title = "Differences from the other model ± standard errors"
            tables.append(TextTable(title, header, differences, 1))
        if self.gains:
            tables.append(gains_table(self.gains, "Converts by tenth of the users"))
        return tables

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        means = {group: self.means(group) for group in _GROUPS}
        return asdict(self) | {"means": {g: own and own._asdict() for g, own in means.items()}}


def _difference(own: Mapping[str, Any]) -> str:
    """A mean difference as text, with its error if that is known."""
    return f"{own['mean']:+.4f}" + ("" if own["error"] is None else f" ±{own['error']:.4f}")


def evaluate(
    general: General,
    data: Dataset,
    *,
    campaigns: Sequence[int | str] | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> Evaluation:
    """Judges a general model on campaigns that it does not know.

    Args:
      general: the general model.
      data: stage 1 of a campaign is for customising; users of stage 2 are ranked.
      campaigns: ids of the campaigns to judge; by default all that have examples of stage 2 and
        were neither trained on nor held out of training.
      seed: random seed of non-seeds and of customising.
      progress: receives the number of campaigns done.

    Raises:
      InputError: there is no campaign to judge, or the data does not fit the model.
      Diverged: a score is not a number.
    """
    data = data.encoded_for(general.schema, general.vocabulary)
    # Held-out campaigns are not new either, since they decided when training stopped.
    known = data.campaigns_among((*general.campaigns, *general.held_out))
    if campaigns is None:
        chosen = np.flatnonzero(~known & (data.stage2.counts > 0))
    else:
        chosen = np.array([data.index_of(own) for own in campaigns], int)
    has_seeds = data.stage1.positives[chosen] > 0
    test = chosen[has_seeds]
    if not len(test):
        raise InputError(
            f"{data.where}: no campaign that is new to the model has seeds to customise on (stage "
            "1) and users to judge on (stage 2); leave campaigns out with metaheac fit --leave-out"
        )
    method = method_of(general)
    pools = score_pools(method, general, data, test, seed=seed, progress=progress)
    small, threshold = small_campaigns(data)
    split = Split(np.flatnonzero(known), test, small, threshold)
    result = judge_all(data, split, pools.scores, label=method.label)
    ids = [plain_id(own) for own in data.campaign_ids]
    left_out = [{"campaign": ids[c], "why": "no seeds of stage 1"} for c in chosen[~has_seeds]]
    judged, ranked = {own["campaign"] for own in result["campaigns"]}, []
    for c, scores in zip(test, pools.scores, strict=True):
        if ids[c] in judged:
            of = data.stage2.of(c)
            order = top(scores, data.user_ids[data.stage2.user[of]], len(scores))
            ranked.append(data.stage2.label[of][order])
    return Evaluation(
        method=method.label,
        data=data.digest,
        model=None if general.origin is None else general.origin.digest,
        threshold=threshold,
        campaigns=result["campaigns"],
        left_out=[*result["left_out"], *left_out],
        gains=gains_of(ranked),
        num_known=int(known[test].sum()),
    )
