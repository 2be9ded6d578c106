"""An audience from a pool of millions: users per second, and memory independent of the pool.

Axes: P users of a pool, S slots of a user, k embedding width.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from experiments.many_campaigns.speed import TABLE_ROWS
from experiments.throughput.inputs import Size, synthetic
from experiments.throughput.machine_limits import measure_limits, theory_flops
from experiments.throughput.meta_steps import NETWORK, untrained
from metaheac_jax.audience.retrieve import expand
from metaheac_jax.customise.score import AdaptedScorer, PoolScorer
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.model import AdaptedWeights, Customised, General
from metaheac_jax.progress import Progress
from metaheac_jax.settings import OFFICIAL

SEEDS = 300
AUDIENCE = 10_000  # users
_TILE = 1 << 16  # distinct users, which a pool repeats
_SECONDS = 0.02  # between two readings of the memory


@dataclass(frozen=True)
class PoolSpeed:
    """The speed of expanding one campaign.

    Attributes:
      width: k.
      users: P.
      seconds: from a customised model to its audience.
      formulas: the seconds that the arithmetic of the model's formulas takes at the rate of a
        matrix product, which is measured just afterwards.
      memory: peak bytes of the process, including the model but not mapped files.
    """

    width: int
    users: int
    seconds: float
    formulas: float
    memory: int


def time_expanding(
    num_users: int, *, width: int, directory: Path, progress: Progress
) -> list[PoolSpeed]:
    """Expands a campaign over a tenth of a pool, which includes compilation, and over all of it.

    Args:
      num_users: P.
      width: k.
      directory: folder for the pool's files, which are removed afterwards.
      progress: receives what is being done.
    """
    size = Size(1, OFFICIAL.batch_size, width, TABLE_ROWS)
    tile = synthetic(size, num_users=_TILE)
    model = _model(tile, size)
    flops = theory_flops(
        NETWORK, num_examples=1, num_campaigns=0, width=width, derivative="forward"
    )
    speeds = []
    for count in (num_users // 10 + SEEDS, num_users):
        with TemporaryDirectory(dir=directory) as folder:
            data = _pool(tile, count, Path(folder), progress)
            with _most_memory() as most:
                began = time.perf_counter()
                audience = expand(model, data, size=AUDIENCE, progress=progress)
                seconds = time.perf_counter() - began
            assert len(audience) == min(AUDIENCE, audience.num_candidates)
            rate = measure_limits().matmul["default"]
        speeds.append(PoolSpeed(width, count, seconds, count * flops / rate, most[0]))
    return speeds


def _model(data: Dataset, size: Size) -> Customised:
    """An untrained model with rows of its own, as many as a campaign of a pool's users touches."""
    general = General(
        method="metaheac",
        settings=OFFICIAL,
        schema=data.schema,
        vocabulary=data.vocabulary,
        state={},
        data=data.name,
        campaigns=(),
        seed=0,
    )
    weights = untrained(size, data.layout)
    touched = np.unique(np.asarray(data.user_rows[:]))
    rows = touched[touched < data.num_rows].astype(np.int32)
    adapted = AdaptedWeights(weights.network, rows, weights.table[rows])
    pool, campaign = PoolScorer(NETWORK, data.layout), data.campaign(0)
    scorer = AdaptedScorer(pool, weights, adapted, campaign.rows)
    return Customised(general, campaign, data.user_ids[:SEEDS], scorer)


def _pool(tile: Dataset, count: int, folder: Path, progress: Progress) -> Dataset:
    """A pool of ``count`` users in mapped files, with shuffled ids."""
    rows = np.lib.format.open_memmap(
        folder / "rows.npy", "w+", np.int32, (count, tile.user_rows.shape[1])
    )
    key = np.lib.format.open_memmap(folder / "key.npy", "w+", np.int64, (count,))
    for start in range(0, count, _TILE):
        part = slice(start, min(start + _TILE, count))
        rows[part] = tile.user_rows[: part.stop - start]
        key[part] = np.random.default_rng(start).permutation(np.arange(start, part.stop))
        progress("write the pool", part.stop, count)
    rows.flush()
    key.flush()
    mapped = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("rows", "key")]
    return replace(tile, user_rows=mapped[0], user_ids=mapped[1])


@contextmanager
def _most_memory() -> Iterator[list[int]]:
    """Yields a list of one number, the peak bytes of memory of the process (Linux)."""
    most, stop = [_anonymous()], threading.Event()

    def look() -> None:
        while not stop.wait(_SECONDS):
            most[0] = max(most[0], _anonymous())

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        yield most
    finally:
        stop.set()
        watcher.join()
        most[0] = max(most[0], _anonymous())


def _anonymous() -> int:
    """Resident bytes of this process that belong to no file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return 1024 * int(line.split()[1])
    raise OSError("/proc/self/status has no RssAnon; this needs Linux")
