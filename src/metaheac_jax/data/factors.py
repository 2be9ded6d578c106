"""Joint factors of users: what several of their fields show at once.

Factor analysis (Bartholomew, Knott and Moustaki 2011, "Latent Variable Models and Factor Analysis")
of a user's centred vector y:

    y = W z + e,    z ~ N(0, I),    e ~ N(0, N)

What only one field shows is no joint factor, so the noise N may have any covariance within a field;
between fields it has none. W and N are found by EM.

Axes: p entries of the vector, d factors.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

_ROUNDS = 100  # of EM
#: Added to each variance, as a fraction of it, since the indicators of a field sum to 1.
_RIDGE = 1e-3


class FactorModel(NamedTuple):
    """A model of users' vectors.

    Attributes:
      loadings: W, (p, d).
      noise: N, (p, p); zero between fields.
      blocks: the positions of each field's entries.
    """

    loadings: np.ndarray
    noise: np.ndarray
    blocks: Sequence[np.ndarray]

    def read_out(self) -> np.ndarray:
        """(d, p) the matrix that maps a vector to the posterior mean of its factors."""
        scaled = np.zeros_like(self.loadings.T)
        for entries in self.blocks:
            scaled[:, entries] = np.linalg.solve(
                self.noise[np.ix_(entries, entries)], self.loadings[entries]
            ).T
        return np.linalg.solve(np.eye(len(scaled)) + scaled @ self.loadings, scaled)

    def improved(self, covariance: np.ndarray) -> FactorModel:
        """Makes an EM round; ``covariance`` is that of the vectors, (p, p)."""
        read = self.read_out()
        both = covariance @ read.T  # covariance of vectors and posterior means
        second = np.eye(len(read)) - read @ self.loadings + read @ both
        loadings = np.linalg.solve(second, both.T).T
        return self._replace(
            loadings=loadings, noise=_within(covariance - loadings @ both.T, self.blocks)
        )


def factor_model(covariance: np.ndarray, field: np.ndarray, count: int) -> FactorModel:
    """Finds the model of a covariance.

    EM starts from the directions that most fields share: the generalised eigenvectors of the
    covariance and its blocks.

    Args:
      covariance: (p, p) of the vectors.
      field: (p,) number of the field of each entry.
      count: maximum of d, which is less than p.
    """
    blocks = [np.flatnonzero(field == number) for number in np.unique(field)]
    covariance = covariance + _RIDGE * np.diag(np.diag(covariance))
    within = _within(covariance, blocks)
    root = np.linalg.cholesky(within)
    whitening = np.linalg.inv(root)
    _, vectors = np.linalg.eigh(whitening @ covariance @ whitening.T)
    loadings = root @ vectors[:, ::-1][:, : min(count, len(root) - 1)] / np.sqrt(2)
    model = FactorModel(loadings, within - _within(loadings @ loadings.T, blocks), blocks)
    for _ in range(_ROUNDS):
        model = model.improved(covariance)
    return model


def _within(matrix: np.ndarray, blocks: Sequence[np.ndarray]) -> np.ndarray:
    """(p, p) -> the same, with zeros between fields; symmetric."""
    kept = np.zeros_like(matrix)
    for entries in blocks:
        block = matrix[np.ix_(entries, entries)]
        kept[np.ix_(entries, entries)] = (block + block.T) / 2
    return kept
