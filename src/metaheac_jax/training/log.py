"""The log of a training, and what it tells after an interruption."""

from __future__ import annotations

import json
import math
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metaheac_jax.data.campaign import plain_id
from metaheac_jax.errors import Diverged
from metaheac_jax.files import write_text
from metaheac_jax.processes import from_first
from metaheac_jax.progress import Progress
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.mesh_checkpoints import MeshCheckpoints
from metaheac_jax.training.step import CheckedInfo


class TrainingLog:
    """Reports how training goes to the log and to ``progress``."""

    def __init__(
        self,
        name: str,
        end: int,
        log: Path | None,
        done: int,
        before: tuple[float, int],
        progress: Progress,
        may_skip: int,
        campaigns_of: Callable[[int], np.ndarray] | None,
    ) -> None:
        """Args:
        name, log, progress, campaigns_of: as in `loop.train`.
        end: step after which training ends if it improves no more.
        done: number of steps taken before.
        before: seconds that they took, and how many steps were skipped; see `time_and_skips`.
        may_skip: number of steps that may be skipped.
        """
        self._name, self._end, self._log, self._progress = name, end, log, progress
        self._before, self._skipped = before
        self._may_skip, self._campaigns_of = may_skip, campaigns_of
        self._began = self._mark = time.perf_counter()
        self._infos: list[Any] = []
        progress(name, done, end)

    def add(self, info: Any) -> None:
        """Adds the info of a step, which may still be running."""
        self._infos.append(info)

    def losses(self, done: int) -> None:
        """Reports the mean loss since the last call; waits for the device.

        Raises:
          Diverged: a step is not finite and may not be skipped.
        """
        infos, self._infos = self._infos, []
        values = np.asarray(jnp.stack([info.loss for info in infos]))
        good = np.isfinite(values)
        if isinstance(infos[0], CheckedInfo):
            good = np.asarray(jnp.stack([info.taken for info in infos]))
        for place in np.flatnonzero(~good).tolist():
            self._not_finite(done - len(infos) + place, infos[place])
        now = time.perf_counter()
        loss = float(values[good].mean()) if good.any() else math.nan
        if good.any():
            self._write(
                done,
                loss=loss,
                steps_per_second=len(values) / (now - self._mark),
                seconds=self._before + now - self._began,
            )
        self._progress(f"{self._name}: loss {loss:.4g}", done, self._end)
        self._mark = now

    def _not_finite(self, number: int, info: Any) -> None:
        """Reports that a step, counted from 0, was skipped, or ends training."""
        array, campaigns = f"loss is {info.loss}", []
        if np.isfinite(info.loss):
            bad = next(name for name, finite in named_leaves(info.finite).items() if not finite)
            array = f"{bad} is not finite"
        if self._campaigns_of is not None:
            campaigns = [plain_id(value) for value in self._campaigns_of(number)]
        of = f" (campaigns {', '.join(map(str, campaigns))})" if campaigns else ""
        what = f"{self._name}: step {number + 1}: the {array}{of}"
        if not isinstance(info, CheckedInfo) or self._skipped >= self._may_skip:
            before = f", after {self._skipped} that were skipped" if self._skipped else ""
            raise Diverged(
                f"{what}{before}; lower the learning rates, or allow some steps to be skipped "
                "(skip-nonfinite)"
            )
        self._skipped += 1
        warnings.warn(f"{what}; the step is skipped", stacklevel=2)
        self._write(number + 1, skipped=array, campaigns=campaigns)

    def judgement(self, done: int, auc: float, loss: float, end: int) -> None:
        """Reports results on the held-out campaigns; training may now go on up to ``end``."""
        self._end = end
        self._write(done, held_out_auc=auc, held_out_loss=loss)
        text = f"{self._name}: held-out AUC {auc:.4f}"
        self._progress(text, done, self._end)
        self._mark = time.perf_counter()

    def _write(self, done: int, **values: Any) -> None:
        if self._log is not None:
            with self._log.open("a") as file:
                file.write(json.dumps({"name": self._name, "step": done, **values}) + "\n")


def time_and_skips(
    log: Path | None, name: str, done: int, checkpoints: Checkpoints | MeshCheckpoints | None
) -> tuple[float, int]:
    """The seconds that training has taken and the steps that it has skipped by step ``done``.

    With several processes, the first one has the log and sends these values to the others.
    """
    if checkpoints is None:  # nothing to resume, so all lines of the log are other trainings'
        return 0.0, 0
    before = (0.0, 0) if log is None else _take_back(log, name, done)
    return from_first(before) if isinstance(checkpoints, MeshCheckpoints) else before


def _take_back(log: Path, name: str, done: int) -> tuple[float, int]:
    """Removes log lines that an interrupted process wrote after its last checkpoint.

    Returns:
      The seconds that training had taken by that checkpoint, and the steps that it had skipped.
    """
    lines = log.read_text().splitlines() if log.is_file() else []
    kept, seconds, skipped = [], 0.0, 0
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the process was killed while it wrote this line
        if line["name"] == name and line["step"] > done:
            continue
        kept.append(text)
        if line["name"] == name:
            seconds = line.get("seconds", seconds)
            skipped += "skipped" in line
    if len(kept) < len(lines):
        write_text(log, "".join(f"{text}\n" for text in kept))
    return seconds, skipped
