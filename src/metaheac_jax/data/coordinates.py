"""Coordinates of values, learned from users without labels.

Both kinds come from correspondence analysis (Greenacre 2007, "Correspondence Analysis in
Practice"): singular vectors of a table of counts, whose rows and columns are divided by the roots
of their masses.

Those of *co-occurrence* place values near each other that occur with the same other values. A value
occurs with itself, which tells nothing, so the diagonal of the Gram matrix is left out. So is the
constant of each field, which only tells that a user has the field.

Those of *exposure* place values near each other whose users were shown the same campaigns. They
tell whom campaigns are aimed at, also by fields that occur with no other field's values.

Axes: P users, S slots of a user, R rows of the table, k coordinates, C campaigns, H campaigns in
histories, A values of their attributes, V values of a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy.sparse import csr_matrix, diags, vstack
from threadpoolctl import threadpool_limits

from metaheac_jax.table.layout import Layout
from metaheac_jax.table.sparse import full_lists

_SMOOTHING = 50.0  # users added to the mass of each value, so that rare values are near the origin
_MORE, _ROUNDS = 12, 8  # further vectors, and rounds, of the randomised method
#: Minimum number of campaigns that share an attribute with coordinates, and their weight, which is
#: 1 for an eigenvector.
_MIN_SHARING, _OF_ATTRIBUTES = 3, 0.3
#: How much less examples of one label may tell of an exposure than those of the other.
_LEAST_RATIO = 0.5


def fractions(layout: Layout, users: np.ndarray, num_rows: int) -> csr_matrix:
    """(P, S) table rows of users -> (P, R) fractions of the values of a user's field."""
    matrix, num_slots = full_lists(layout, users, num_rows)
    matrix.data *= (1 / num_slots)[matrix.indices]  # in place, since it is large
    return matrix.astype(np.float32)


def value_coordinates(values: csr_matrix, field: np.ndarray, width: int) -> np.ndarray:
    """(R, k) float32 coordinates by co-occurrence; zero for values that no user has.

    Args:
      values: (P, R), see `fractions`.
      field: (R,) number of the field of each row.
      width: k.
    """
    mass, size = (np.asarray(values.sum(axis=axis)).ravel() for axis in (0, 1))
    scale = np.where(mass > 0, 1 / np.sqrt(mass + _SMOOTHING), 0).astype(np.float32)
    of_user = (1 / np.sqrt(np.maximum(size, 1))).astype(np.float32)
    matrix = values.copy()
    matrix.data *= np.repeat(of_user, np.diff(matrix.indptr)) * scale[matrix.indices]
    transposed = csr_matrix(matrix.T)
    norm = np.bincount(matrix.indices, np.square(matrix.data), len(mass)).astype(np.float32)
    root = np.sqrt(np.bincount(field, np.square(mass * scale)))[field]
    ones = (mass * scale / np.maximum(root, 1e-12)).astype(np.float32)
    constants = csr_matrix((ones, (np.arange(len(mass)), field)))

    def centred(vectors: np.ndarray) -> np.ndarray:
        return vectors - constants @ (constants.T @ vectors)

    def gram(vectors: np.ndarray) -> np.ndarray:
        vectors = centred(vectors)
        return centred(transposed @ (matrix @ vectors) - norm[:, None] * vectors)

    vectors, _ = _leading(gram, len(mass), width)
    return scale[:, None] * vectors * np.sqrt(np.float32(values.shape[0]))


def exposure_counts(examples: Iterable[tuple[csr_matrix, np.ndarray]]) -> list[csr_matrix]:
    """Counts, of each label, (C, R): how many examples of a campaign have each value.

    Args:
      examples: of each campaign `fractions` (P, R), and labels (P,).
    """
    of = [[csr_matrix((label == kind) @ x) for kind in (0, 1)] for x, label in examples]
    return [csr_matrix(vstack(pair)) for pair in zip(*of, strict=True)]


def exposure_coordinates(counts: Iterable[csr_matrix], width: int) -> np.ndarray:
    """(V, k) float32 coordinates of a field's values by exposure; zero after the last.

    Singular values below those of a table of noise are left out, and so is what examples of one
    label alone tell: if non-seeds were drawn at random, seeds alone tell whom a campaign is aimed
    at, and that is told by labels. The labels have no other part in this, and are
    interchangeable.

    Args:
      counts: of each label, (C, V); see `exposure_counts`.
      width: k.
    """
    each = [matrix.astype(np.float64) for matrix in counts]
    total = each[0] + each[1]
    shown, mass = (np.asarray(total.sum(axis=axis)).ravel() for axis in (1, 0))
    count, scale = shown.sum(), np.where(mass > 0, 1 / np.sqrt(mass + _SMOOTHING), 0)
    of_campaign = np.sqrt(count) / np.sqrt(np.maximum(shown, 1))

    def deviation(matrix: csr_matrix, vectors: np.ndarray) -> np.ndarray:
        """(V, n) -> (C, n), by the scaled counts less those expected without targeting."""
        scaled, examples = scale[:, None] * vectors, np.asarray(matrix.sum(axis=1))
        share = np.asarray(matrix.sum(axis=0)) / max(matrix.sum(), 1)
        return of_campaign[:, None] * (matrix @ scaled - examples * (share @ scaled))

    def transposed(vectors: np.ndarray) -> np.ndarray:
        scaled = of_campaign[:, None] * vectors
        return scale[:, None] * (total.T @ scaled - mass[:, None] * (shown @ scaled / count))

    vectors, values = _leading(
        lambda matrix: transposed(deviation(total, matrix)), len(mass), width
    )
    edge = (np.sqrt(len(shown)) + np.sqrt(np.count_nonzero(mass))) ** 2
    along = deviation(total, vectors)
    told = [
        (along * deviation(matrix, vectors)).sum(axis=0) / max(matrix.sum(), 1) for matrix in each
    ]
    kept = (values > edge) & (np.minimum(*told) > _LEAST_RATIO * np.maximum(*told))
    return (scale[:, None] * vectors * kept * np.sqrt(count)).astype(np.float32)


def campaign_coordinates(
    converts: csr_matrix, others: csr_matrix, attributes: np.ndarray, width: int
) -> np.ndarray:
    """(2, H, k) float32 coordinates of campaigns for those with a conversion, and without.

    They show who converts in the same campaigns: the counts are what is left of a conversion, 1 or
    0, once the campaign's rate is subtracted. As in `value_coordinates`, the diagonal of the Gram
    matrix is left out. So an eigenvalue is negative where users convert in one campaign instead of
    another. Left out are those that are closer to 0 than the largest of noise, which has the same
    counts with random signs (Horn 1965, "A rationale and test for the number of factors in factor
    analysis"). The attributes that most campaigns share have the coordinates that are left, so that
    a user's sums tell in which kinds of campaigns she converts.

    Args:
      converts, others: (P, H) 1 where a user converted in a campaign, or was shown it and did not.
      attributes: (H, A) bool, whether a campaign has each of A values of its fields.
      width: maximum of k.
    """
    shown = converts + others
    count = np.asarray(shown.sum(axis=0)).ravel()
    rate = np.asarray(converts.sum(axis=0)).ravel() / np.maximum(count, 1)
    rest = csr_matrix(converts - shown.multiply(rate[None]), dtype=np.float32)
    scale = np.where(count > 0, 1 / np.sqrt(count + _SMOOTHING), 0)
    of_user = 1 / np.sqrt(np.maximum(np.asarray(shown.sum(axis=1)).ravel(), 1))
    rest = csr_matrix(diags(of_user) @ rest @ diags(scale))
    signs = np.random.Generator(np.random.Philox(0)).choice([-1, 1], rest.nnz)
    noise = csr_matrix((signs * rest.data, rest.indices, rest.indptr), rest.shape)
    _, [edge] = _leading(_squared_gram(noise), len(scale), 1)
    vectors, values = _leading(_squared_gram(rest), len(scale), width)
    vectors, sharing = vectors[:, values > edge], attributes.sum(axis=0)
    most = np.argsort(-sharing, kind="stable")[: width - vectors.shape[1]]
    most = most[sharing[most] >= _MIN_SHARING]
    columns = _OF_ATTRIBUTES * attributes[:, most] / np.sqrt(sharing[most])
    vectors = np.sqrt(shown.shape[0]) * scale[:, None] * np.hstack([vectors, columns])
    return np.stack([(1 - rate)[:, None] * vectors, -rate[:, None] * vectors]).astype(np.float32)


def _squared_gram(matrix: csr_matrix) -> Callable[[np.ndarray], np.ndarray]:
    """A function that multiplies twice by the Gram matrix of columns without its diagonal."""
    norm = np.asarray(matrix.multiply(matrix).sum(axis=0)).ravel()

    def once(vectors: np.ndarray) -> np.ndarray:
        return matrix.T @ (matrix @ vectors) - norm[:, None] * vectors

    return lambda vectors: once(once(vectors))


def leading_components(numbers: np.ndarray, width: int) -> np.ndarray:
    """(P, n) numbers of users -> (n, k) loadings of their k leading components; 1 if n <= k."""
    if numbers.shape[1] <= width:
        return np.eye(numbers.shape[1], width, dtype=np.float32)
    _, vectors = np.linalg.eigh(np.cov(numbers, rowvar=False, dtype=np.float64))
    return vectors[:, ::-1][:, :width].astype(np.float32)


def _leading(
    gram: Callable[[np.ndarray], np.ndarray], size: int, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """The eigenvectors (size, count) of the highest eigenvalues (count,), in descending order.

    They come from a randomised method (Halko, Martinsson and Tropp 2011) with a fixed random start.
    Zeros follow after the last one.

    Args:
      gram: multiplies (size, n) by a symmetric matrix.
      size: its size.
      count: number of vectors.
    """
    start = np.random.Generator(np.random.Philox(0)).standard_normal((size, count + _MORE))
    basis = start.astype(np.float32)
    with threadpool_limits(1, "blas"):  # several threads would round otherwise
        for _ in range(_ROUNDS):
            basis, _ = np.linalg.qr(gram(basis))
        image = basis.T @ gram(basis)
        values, rotation = np.linalg.eigh((image + image.T).astype(np.float64) / 2)
        vectors = basis @ rotation[:, ::-1].astype(basis.dtype)
    missing = max(0, count - len(values))
    values = np.pad(values[::-1], (0, missing))[:count]
    return np.pad(vectors, ((0, 0), (0, missing)))[:, :count], values
