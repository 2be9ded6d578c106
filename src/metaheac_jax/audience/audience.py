"""An expanded audience, and its files.

Axis: K users of an audience.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import UserIds
from metaheac_jax.data.sources.table_file import ENDINGS
from metaheac_jax.errors import InputError
from metaheac_jax.files import whole_file


class Refresh(NamedTuple):
    """How an audience differs from an earlier one: numbers of users."""

    kept: int
    new: int
    gone: int


@dataclass(frozen=True)
class Audience:
    """An expanded audience, best first; ties are in ascending order of user ids.

    Attributes:
      user_ids: (K,) int64, or text.
      scores: (K,) float32, the customised model's log-odds of converting (or another score, of a
        method that has no probabilities).
      num_candidates: number of candidates.
      first_rank: rank of the first user, more than 1 in a band.
      probabilities: (K,) of converting, see `calibration.Calibration`; None if not calibrated.
    """

    user_ids: np.ndarray
    scores: np.ndarray
    num_candidates: int
    first_rank: int = 1
    probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        """K."""
        return len(self.user_ids)

    def compare(self, earlier_ids: UserIds) -> Refresh:
        """How the audience differs from an earlier one, of these user ids."""
        earlier = np.unique(earlier_ids)
        kept = len(np.intersect1d(self.user_ids, earlier)) if len(earlier) else 0
        return Refresh(kept, len(self) - kept, len(earlier) - kept)

    def write(self, path: Path | str) -> None:
        """Writes rank, user_id, score and, if calibrated, probability; whole or not at all.

        Args:
          path: its ending, one of `table_file.ENDINGS`, says how.

        Raises:
          InputError: the ending is another one.
        """
        path = Path(path)
        check_audience_file(path)
        columns = {
            "rank": np.arange(self.first_rank, self.first_rank + len(self)),
            "user_id": self.user_ids,
            "score": self.scores,
        }
        if self.probabilities is not None:
            columns["probability"] = self.probabilities.astype(np.float32)
        frame = pl.DataFrame(columns)
        with whole_file(path) as temporary:
            if path.suffix == ".parquet":
                frame.write_parquet(temporary)
            else:
                packed = "gzip" if path.suffix == ".gz" else "uncompressed"
                frame.write_csv(temporary, compression=packed, check_extension=False)


def check_audience_file(path: Path) -> None:
    """Refuses the name of a file that no audience can be written to.

    Raises:
      InputError: its ending is not one of `table_file.ENDINGS`.
    """
    if not path.name.endswith(ENDINGS):
        raise InputError(f"{path}: expected a name that ends with {' or '.join(ENDINGS)}")
