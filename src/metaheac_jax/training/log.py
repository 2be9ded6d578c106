"""Records of a training, and hooks that take them.

A record is a dict with the training's ``name``, a ``step``, and one of

    of, resumable                       at the start: when training ends, whether it has checkpoints
    of, loss, steps_per_second, seconds the mean loss and the speed since the last such record
    of, held_out_auc, held_out_loss     a judgement; training may now go on up to step ``of``
    skipped, campaigns                  a step that was not finite: its first bad array

A hook is any function of a record: ``wandb.log`` is one, and so is
``lambda record: mlflow.log_metrics(numbers(record), step=record["step"])``.
"""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from metaheac_jax.data.campaign import plain_id
from metaheac_jax.errors import Diverged
from metaheac_jax.files import write_text
from metaheac_jax.progress import Progress
from metaheac_jax.training.checkpoint import named_leaves
from metaheac_jax.training.step import CheckedInfo

Record = dict[str, Any]
Hook = Callable[[Record], Any]


def numbers(record: Record) -> dict[str, float]:
    """The values of a record that are fractions: losses, AUC, speed and seconds."""
    return {key: value for key, value in record.items() if isinstance(value, float)}


def to_progress(progress: Progress) -> Hook:
    """A hook that reports the number of steps done, with the loss or the held-out AUC."""

    def hook(record: Record) -> None:
        text = record["name"]
        if "held_out_auc" in record:
            text += f": held-out AUC {record['held_out_auc']:.4f}"
        elif "loss" in record:
            text += f": loss {record['loss']:.4g}"
        if "of" in record:
            progress(text, record["step"], record["of"])

    return hook


def json_lines(path: Path) -> Hook:
    """A hook that appends each record to a file, but the start.

    At the start of a training with checkpoints, it removes the lines that an interrupted process
    wrote after its last checkpoint, or half wrote.
    """

    def hook(record: Record) -> None:
        if "resumable" not in record:
            with path.open("a") as file:
                file.write(json.dumps(record) + "\n")
        elif record["resumable"] and path.is_file():
            lines = path.read_bytes().splitlines()
            kept = [line for line in lines if _belongs(line, record)]
            if len(kept) < len(lines):
                write_text(path, "".join(f"{line.decode()}\n" for line in kept))

    return hook


def _belongs(text: bytes, start: Record) -> bool:
    """Whether a line of a log is whole, and not after the step that its training starts from."""
    try:
        line = json.loads(text.decode())
        name, step = line["name"], line["step"]
        return step <= start["step"] or name != start["name"]
    except (ValueError, RecursionError, TypeError, LookupError):  # a kill or a damage has left it
        return False


class Report:
    """Sends the records of a training to its hooks.

    Attributes:
      skipped: number of steps that were skipped, also before an interruption.
    """

    def __init__(
        self,
        name: str,
        hooks: Iterable[Hook],
        *,
        seconds: float = 0.0,
        skipped: int = 0,
        may_skip: int = 0,
        campaigns_of: Callable[[int], np.ndarray] | None = None,
    ) -> None:
        """Args:
        name: the training's.
        hooks: what takes the records.
        seconds: time that training took before an interruption.
        skipped: number of steps that it skipped before.
        may_skip: number of steps that may be skipped in total.
        campaigns_of: as in `loop.train`.
        """
        self._name, self._hooks, self.skipped = name, list(hooks), skipped
        self._may_skip, self._campaigns_of = may_skip, campaigns_of
        self._infos: list[Any] = []
        self._mark = time.perf_counter()
        self._began = self._mark - seconds

    @property
    def seconds(self) -> float:
        """Time that training has taken, in seconds."""
        return time.perf_counter() - self._began

    def send(self, step: int, **values: Any) -> None:
        """Sends a record to the hooks."""
        for hook in self._hooks:
            hook({"name": self._name, "step": step, **values})

    def add(self, info: Any) -> None:
        """Adds the info of a step, which may still be running."""
        self._infos.append(info)

    def losses(self, done: int, end: int) -> None:
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
        self.send(
            done,
            of=end,
            **({"loss": float(values[good].mean())} if good.any() else {}),
            steps_per_second=len(values) / (now - self._mark),
            seconds=now - self._began,
        )
        self._mark = now

    def judgement(self, done: int, auc: float, loss: float, end: int) -> None:
        """Reports results on the held-out campaigns, whose time is not that of steps."""
        self.send(done, of=end, held_out_auc=auc, held_out_loss=loss)
        self._mark = time.perf_counter()

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
        if not isinstance(info, CheckedInfo) or self.skipped >= self._may_skip:
            before = f", after {self.skipped} that were skipped" if self.skipped else ""
            raise Diverged(
                f"{what}{before}; lower the learning rates, or allow some steps to be skipped "
                "(skip-nonfinite)"
            )
        self.skipped += 1
        warnings.warn(f"{what}; the step is skipped", stacklevel=2)
        self.send(number + 1, skipped=array, campaigns=campaigns)
