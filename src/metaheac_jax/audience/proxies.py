"""Which user fields give a sensitive one away, though no model sees it.

Axes: U users, P users of a sample, R table rows, L slots of a sensitive field.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.data.batches import generator
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.ranking import auc
from metaheac_jax.solvers.regression import fit_regression
from metaheac_jax.table.sparse import value_counts

_SAMPLE = 20_000  # maximum number of users, half of whom are judged
_LEAST = 50  # users with a value, and without it, in each half
_VALUES = 10  # of a sensitive field that are tried, the most common ones
_PENALTY = 30.0  # of the regressions


@dataclass(frozen=True)
class Proxy:
    """How well the fields that models see tell a sensitive field.

    Attributes:
      field: name of the sensitive field.
      value: its value that is told best.
      auc: AUC, on users who were not learned from, of a regression on all fields.
      by: the field that tells most alone.
      by_auc: AUC of a regression on it alone.
    """

    field: str
    value: str
    auc: float
    by: str
    by_auc: float


def find_proxies(data: Dataset, pool: np.ndarray, *, seed: int = 0) -> list[Proxy]:
    """Judges how well regressions on user fields tell each sensitive field; see `Proxy`.

    A field is left out if none of its values is frequent enough.

    Args:
      data: users and sensitive fields.
      pool: (U,) bool, the users who are sampled.
      seed: random seed of the sample.
    """
    users = generator(seed, 0).permutation(np.flatnonzero(pool))[:_SAMPLE]
    is_judged = np.arange(len(users)) % 2 == 1
    counts = value_counts(data.layout, np.asarray(data.user_rows[users]), data.num_rows)
    fields = zip(data.schema.user, data.vocabulary.offsets, data.vocabulary.sizes, strict=False)
    parts = {
        field.name: csr_matrix(counts[:, start : start + size]) for field, start, size in fields
    }

    def quality(features: csr_matrix, has: np.ndarray) -> float:
        weights, _ = fit_regression(csr_matrix(features[~is_judged]), has[~is_judged], _PENALTY)
        return auc(features[is_judged] @ weights, has[is_judged])

    found = []
    for name, sensitive in data.sensitive.items():
        codes = sensitive.codes[users]
        sizes = np.bincount(codes.ravel(), minlength=len(sensitive.values))[: len(sensitive.values)]
        best: tuple[float, str, np.ndarray] | None = None
        for code in np.argsort(-sizes, kind="stable")[:_VALUES].tolist():
            has = (codes == code).any(axis=1).astype(np.int8)
            halves = has[is_judged], has[~is_judged]
            if min(min(half.sum(), (1 - half).sum()) for half in halves) >= _LEAST:
                told = quality(counts, has)
                if best is None or told > best[0]:
                    best = told, str(sensitive.values[code]), has
        if best is not None:
            alone = {name: quality(part, best[2]) for name, part in parts.items()}
            by = max(alone, key=lambda own: alone[own])
            found.append(Proxy(name, best[1], best[0], by, alone[by]))
    return found
