"""How the examples of a user become the numbers of a history; see `data.history`.

The first two numbers are log(1 + count) of what the user did not convert in, and of conversions.
The others are sums of coordinates of the campaigns.

Axes: n users, C campaigns that count, H numbers, k coordinates of a campaign.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_matrix

from metaheac_jax.boundary import Column


class Summary(NamedTuple):
    """How examples become the numbers of a history; it is learned from training campaigns.

    Attributes:
      campaigns: ids of the campaigns that count, as text.
      coordinates: (2, C, k) float32 of these: without, and with a conversion.
      center, scale: (H,) by which counts and sums are standardised; H = 2 + k. All sums have the
        same scale, so later coordinates, which tell less, are smaller.
    """

    campaigns: np.ndarray
    coordinates: np.ndarray
    center: np.ndarray
    scale: np.ndarray

    def without(self, campaigns: Iterable[str]) -> Summary:
        """Leaves out campaigns, given by their ids as text."""
        kept = ~np.isin(self.campaigns, [*campaigns])
        coordinates = self.coordinates[:, kept]
        return self._replace(campaigns=self.campaigns[kept], coordinates=coordinates)

    @property
    def weights(self) -> np.ndarray:
        """(2 C, H) what an example adds to counts and sums, by its label, then its campaign."""
        weights = np.zeros((2, len(self.campaigns), len(self.center)))
        weights[0, :, 0] = weights[1, :, 1] = 1
        weights[..., 2:] = self.coordinates
        return weights.reshape(-1, len(self.center))

    def numbers(self, examples: csr_matrix, weights: np.ndarray) -> np.ndarray:
        """(n, 2 C) counts of examples, and weights -> (n, H) float32 numbers."""
        return ((raw_numbers(examples @ weights) - self.center) * self.scale).astype(np.float32)


#: What the arrays of a `Summary` must be.
SUMMARY_COLUMNS = {
    "campaigns": Column("U", ("C",)),
    "coordinates": Column("f4", (2, "C", "k")),
    "center": Column("f8", ("2 + k",)),
    "scale": Column("f8", ("2 + k",), 0),
}


def raw_numbers(sums: np.ndarray) -> np.ndarray:
    """(n, H) two counts and sums of coordinates -> (n, H), before they are standardised."""
    return np.concatenate([np.log1p(sums[:, :2]), sums[:, 2:]], axis=1)
