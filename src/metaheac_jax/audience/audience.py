"""An audience, and the table of one or many audiences.

Axis: K users of an audience.
"""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from metaheac_jax.data.table_file import ENDINGS
from metaheac_jax.errors import InputError
from metaheac_jax.files import inert_frame, whole_file

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True, eq=False)
class Audience:
    """An expanded audience, best user first; ties are ordered by ascending user id.

    Attributes:
      campaign_id: id of its campaign; None if the campaign has none.
      ids: (K,) user ids, int64, or UTF-8 bytes, which take a quarter of the memory of text.
      scores: (K,) float32. If `Method.log_odds`, the log-odds that a user is a seed and not a
        non-seed at the ratio of the two in the campaign's examples, not in the pool; see
        `calibration`.
      num_candidates: number of candidates.
      probabilities: (K,) float32 probabilities of converting, see `calibration.Calibration`; None
        if not calibrated.
    """

    campaign_id: int | str | None
    ids: np.ndarray
    scores: np.ndarray
    num_candidates: int
    probabilities: np.ndarray | None = None

    def __len__(self) -> int:
        """K."""
        return len(self.ids)

    @property
    def user_ids(self) -> np.ndarray:
        """(K,) user ids, int64 or text."""
        return np.char.decode(self.ids, "utf-8") if self.ids.dtype.kind == "S" else self.ids

    @property
    def frame(self) -> pl.DataFrame:
        """A row per user: campaign_id, rank from 1, user_id, score and, if calibrated, probability.

        The column campaign_id is null if the campaign has no id.
        """
        import polars as pl

        columns = {
            "rank": np.arange(1, len(self) + 1),
            "user_id": self.user_ids,
            "score": self.scores,
        }
        if self.probabilities is not None:
            columns["probability"] = self.probabilities
        kind = pl.Int64 if isinstance(self.campaign_id, int) else pl.String
        own = pl.lit(self.campaign_id, kind).alias("campaign_id")
        return pl.DataFrame(columns).select(own, pl.all())


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Writes a table completely or not at all.

    In CSV, no text is a formula of a spreadsheet; see `files.inert_frame`.

    Args:
      path: the file; its ending, one of `table_file.ENDINGS` in any case, selects the format.
      frame: the rows.

    Raises:
      InputError: the file has another ending.
    """
    name = path.name.lower()
    if not name.endswith(ENDINGS):
        raise InputError(f"{path}: expected a name that ends with {', '.join(ENDINGS)}; rename it")
    with whole_file(path) as temporary:
        if name.endswith(".parquet"):
            frame.write_parquet(temporary)
        else:
            text = inert_frame(frame).write_csv().encode()
            temporary.write_bytes(gzip.compress(text, mtime=0) if name.endswith(".gz") else text)
