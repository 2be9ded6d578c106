"""An expanded audience and its files.

Axis: K users of an audience.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from metaheac_jax.data.campaign import UserIds, check_user_ids
from metaheac_jax.data.sources.table_file import ENDINGS
from metaheac_jax.errors import InputError
from metaheac_jax.files import whole_file


class Refresh(NamedTuple):
    """Numbers of users kept, gained and lost, compared with an earlier audience."""

    kept: int
    new: int
    gone: int


@dataclass(frozen=True)
class Audience:
    """An expanded audience, best user first; ties are ordered by ascending user id.

    Attributes:
      ids: (K,) user ids, int64, or UTF-8 bytes, which take a quarter of the memory of text.
      scores: (K,) float32. If `Method.log_odds`, the log-odds that a user is a seed and not a
        non-seed at the ratio of the two in the campaign's examples, not in the pool; see
        `calibration`.
      num_candidates: number of candidates.
      first_rank: rank of the first user; more than 1 for a band.
      probabilities: (K,) probabilities of converting, see `calibration.Calibration`; None if not
        calibrated.
      num_tied: number of users with the last score, if candidates who have it too are left out
        because their user ids are larger; otherwise 0.
    """

    ids: np.ndarray
    scores: np.ndarray
    num_candidates: int
    first_rank: int = 1
    probabilities: np.ndarray | None = None
    num_tied: int = 0

    def __len__(self) -> int:
        """K."""
        return len(self.ids)

    @property
    def user_ids(self) -> np.ndarray:
        """(K,) user ids, int64 or text."""
        return np.char.decode(self.ids, "utf-8") if self.ids.dtype.kind == "S" else self.ids

    def compare(self, earlier_ids: UserIds) -> Refresh:
        """Compares the audience with an earlier one, given by its user ids.

        Raises:
          InputError: they are not ids such as those of this audience.
        """
        earlier = np.unique(check_user_ids(earlier_ids, text=self.ids.dtype.kind == "S"))
        kept = int(np.isin(earlier, self.ids).sum())
        return Refresh(kept, len(self) - kept, len(earlier) - kept)

    def write(self, path: Path | str) -> None:
        """Writes rank, user_id, score and, if calibrated, probability; completely or not at all.

        Args:
          path: the file; its ending, one of `table_file.ENDINGS`, selects the format.

        Raises:
          InputError: the file has another ending.
        """
        path = Path(path)
        check_audience_file(path)
        with whole_file(path) as temporary:
            self.write_part(temporary, path)

    def write_part(self, temporary: Path, path: Path) -> None:
        """As `write`, but to a temporary file, in the format of the ending of ``path``."""
        columns = {
            "rank": np.arange(self.first_rank, self.first_rank + len(self)),
            "user_id": self.user_ids,
            "score": self.scores,
        }
        if self.probabilities is not None:
            columns["probability"] = self.probabilities.astype(np.float32)
        frame = pl.DataFrame(columns)
        if path.suffix == ".parquet":
            frame.write_parquet(temporary)
        else:
            packed = "gzip" if path.suffix == ".gz" else "uncompressed"
            frame.write_csv(temporary, compression=packed, check_extension=False)


def check_audience_file(path: Path) -> None:
    """Refuses a file name that an audience cannot be written to.

    Raises:
      InputError: the ending is not one of `table_file.ENDINGS`.
    """
    if not path.name.endswith(ENDINGS):
        raise InputError(f"{path}: expected a name that ends with {' or '.join(ENDINGS)}")
