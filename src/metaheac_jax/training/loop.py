"""The offline loop: one general model from all existing campaigns (paper section 3.3).

Meta-training and plain training differ in the step and the sampler.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.data.batches import prefetch
from metaheac_jax.errors import Diverged
from metaheac_jax.files import write_text
from metaheac_jax.progress import Progress, silent
from metaheac_jax.training.checkpoint import Checkpoints
from metaheac_jax.training.step import RowState, RowStep


def train(
    step: RowStep,
    state: RowState,
    draw: Callable[[int], Any],
    *,
    num_steps: int,
    name: str = "offline",
    checkpoints: Checkpoints | None = None,
    save_every: int = 500,
    save_seconds: float = 60.0,
    log: Path | None = None,
    log_every: int = 20,
    progress: Progress = silent,
) -> RowState:
    """Trains from the newest checkpoint, or from ``state``, up to step ``num_steps``.

    Args:
      step: from `step.build_row_step`.
      state: the initial state; it is consumed.
      draw: ``draw(step) -> (rows, *batches)``, a sampler.
      num_steps: total number of steps.
      name: of what is trained, for the log and the progress.
      checkpoints: to save to and to resume from; the last one is of the last step.
      save_every: maximum number of steps between checkpoints.
      save_seconds: maximum time between checkpoints, in seconds.
      log: a file for one JSON line every ``log_every`` steps: name, step, mean loss since the last
        line, steps per second, seconds.
      log_every: steps between log lines, where the loop waits for the device.
      progress: receives the number of steps done, and the loss.

    Raises:
      Diverged: a loss, a parameter or a moment is not finite; no such state is saved.
    """
    done = 0
    if checkpoints is not None and checkpoints.latest is not None:
        state = checkpoints.restore(state)
        done = checkpoints.latest
    before = 0.0 if log is None else _take_back(log, name, done)
    began = mark = saved = time.perf_counter()
    losses: list[Array] = []
    progress(name, done, num_steps)
    for number, batch in prefetch(draw, range(done, num_steps)):
        state, info = step.step(state, *batch)
        losses.append(info.loss)
        done = number + 1
        due = done % save_every == 0 or time.perf_counter() - saved >= save_seconds
        save = checkpoints is not None and (due or done == num_steps)
        if done % log_every and done != num_steps and not save:
            continue
        values = np.asarray(jnp.stack(losses))
        if not np.isfinite(values).all():
            first = done - len(values) + int(np.argmin(np.isfinite(values)))
            raise Diverged(f"{name}: the loss of step {first} is {values[~np.isfinite(values)][0]}")
        now = time.perf_counter()
        if log is not None:
            line = {
                "name": name,
                "step": done,
                "loss": float(values.mean()),
                "steps_per_second": len(values) / (now - mark),
                "seconds": before + now - began,
            }
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        progress(f"{name}: loss {values.mean():.4g}", done, num_steps)
        losses, mark = [], now
        if save or done == num_steps:
            _check_finite(state, f"{name}: after step {done}")
        if save and checkpoints is not None:
            checkpoints.save(done, state)
            saved = time.perf_counter()
    return state


def _check_finite(state: Any, when: str) -> None:
    """Refuses a state with an array that is not finite: a loss may be finite on bad weights."""
    finite = jax.device_get(_finite(state))
    for path, good in jax.tree_util.tree_leaves_with_path(finite):
        if not good:
            raise Diverged(f"{when}, state{jax.tree_util.keystr(path)} is not finite")


@jax.jit
def _finite(state: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.isfinite(leaf).all(), state)


def _take_back(log: Path, name: str, done: int) -> float:
    """Removes what an interrupted process has logged beyond its last checkpoint.

    Returns:
      The seconds that the training had taken by then.
    """
    lines = log.read_text().splitlines() if log.is_file() else []
    kept, seconds = [], 0.0
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the process was killed while it wrote this line
        if line["name"] == name and line["step"] > done:
            continue
        kept.append(text)
        if line["name"] == name:
            seconds = line["seconds"]
    if len(kept) < len(lines):
        write_text(log, "".join(f"{text}\n" for text in kept))
    return seconds
