"""The offline loop: one general model from all existing campaigns (paper section 3.3).

Meta-training and plain training differ in the step and the sampler.

Axes: E judgements.
"""

from __future__ import annotations

import math
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.threads import drawing_threads, in_threads
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.log import TrainingLog, time_and_skips
from metaheac_jax.training.mesh_checkpoints import MeshCheckpoints
from metaheac_jax.training.step import RowState, RowStep, leaves_finite

MAX_JUDGEMENTS = 1000  # in one training; a checkpoint has room for this many


class Quality(NamedTuple):
    """How good a general model is after customising it to campaigns that it was not trained on.

    Attributes:
      auc: weighted mean of the AUC over the campaigns.
      loss: weighted mean of the logistic loss over the campaigns.
    """

    auc: float
    loss: float


@dataclass(frozen=True)
class EarlyStop:
    """Ends training when it no longer improves, and keeps the best state.

    Attributes:
      judge: judges a state on held-out campaigns.
      every: number of steps between two judgements.
      patience: number of judgements without a higher AUC after which training ends.
      patience_steps: number of steps without a higher AUC before which training does not end. If
        few steps lie between judgements, a lucky one near the start would end it otherwise.
      judge_start: whether to judge the initial state, which may be the best if it is trained.
    """

    judge: Callable[[RowState], Quality]
    every: int
    patience: int
    patience_steps: int = 0
    judge_start: bool = False


class Progressed(NamedTuple):
    """The progress of training with early stopping, as a checkpoint stores it.

    Attributes:
      state: the state after the last step.
      best: the state with the highest held-out AUC.
      judged: (`MAX_JUDGEMENTS`, 3) step, AUC and loss of each judgement; NaN where there is none.
    """

    state: RowState
    best: RowState
    judged: Array

    def judgements(self) -> np.ndarray:
        """(E, 3) step, AUC and loss of the judgements made so far."""
        judged = np.asarray(self.judged)
        return judged[~np.isnan(judged[:, 0])]

    def add(self, step: int, quality: Quality) -> Progressed:
        """Returns the progress with one more judgement, that of the state."""
        before = self.judgements()
        judged = self.judged.at[len(before)].set(jnp.array([step, *quality]))
        # An AUC that is not a number is never better; the first state counts in any case.
        better = not len(before) or quality.auc > np.nanmax(before[:, 1], initial=-np.inf)
        best = jax.tree.map(jnp.copy, self.state) if better else self.best
        return Progressed(self.state, best, judged)

    def without_gain(self) -> tuple[int, int]:
        """Number of judgements, and of steps, since the best judgement."""
        judged = self.judgements()
        if not len(judged):
            return 0, 0
        best = int(np.argmax(np.nan_to_num(judged[:, 1], nan=-np.inf)))
        return len(judged) - 1 - best, int(judged[-1, 0] - judged[best, 0])


def train(
    step: RowStep,
    state: RowState,
    draw: Callable[[int], Any],
    *,
    num_steps: int,
    first_step: int = 0,
    early_stop: EarlyStop | None = None,
    name: str = "offline",
    campaigns_of: Callable[[int], np.ndarray] | None = None,
    skip_nonfinite: int = 0,
    checkpoints: Checkpoints | MeshCheckpoints | None = None,
    save_every: int = 500,
    save_seconds: float = 60.0,
    log: Path | None = None,
    log_every: int = 20,
    progress: Progress = silent,
) -> tuple[RowState, np.ndarray]:
    """Trains from the newest checkpoint, or from ``state``, up to step ``num_steps``.

    Args:
      step: from `step.build_row_step`.
      state: the initial state; it is consumed.
      draw: ``draw(step) -> (rows, *batches)``, a thread-safe sampler.
      num_steps: total number of steps; with ``early_stop``, the maximum.
      first_step: number of steps that ``state`` has taken.
      early_stop: ends training earlier and returns the best state; None takes all steps.
      name: name of what is trained, for the log and the progress.
      campaigns_of: maps a step, counted as by ``draw``, to its campaigns' ids, for messages.
      skip_nonfinite: how many non-finite checked steps may be skipped in total; each causes a
        warning and a log line: name, step, skipped (the first bad array), campaigns.
      checkpoints: where to save and to resume from; the last checkpoint is of the last step.
      save_every, save_seconds: maximum number of steps, and of seconds, between checkpoints.
      log: a file for a JSON line every ``log_every`` steps, and at each judgement and checkpoint:
        name, step, mean loss since the last line, steps per second, seconds; and one per judgement
        but that of the start: name, step, held_out_auc, held_out_loss.
      log_every: number of steps between log lines, for which the loop waits for the device.
      progress: receives the number of steps done, and the loss.

    Returns:
      The state, and the judgements (E, 3): step, AUC, loss.

    Raises:
      InputError: the checkpoint is of a later step or another state, or has no room to judge.
      OSError: a checkpoint cannot be saved.
      Diverged: a loss, a gradient, a parameter or a moment is not finite; that state is not saved.
    """
    early_stop, unbounded = _with_room(early_stop, num_steps - first_step), _unbounded(state)
    going, done = _begun(name, state, first_step, num_steps, checkpoints, early_stop)
    if _stopped(going, early_stop):
        return going.best, going.judgements()
    before, saved = time_and_skips(log, name, done, checkpoints), time.perf_counter()
    end = _end(going, early_stop, first_step, num_steps)
    notes = TrainingLog(name, end, log, done, before, progress, skip_nonfinite, campaigns_of)
    for number, batch in _drawn(draw, range(done, num_steps)):
        state, info = step.step(going.state, *batch)
        going = going._replace(state=state)
        notes.add(info)
        done = number + 1
        last = done == num_steps
        judge = early_stop is not None and (done % early_stop.every == 0 or last)
        due = done % save_every == 0 or _seconds_since(saved) >= save_seconds
        save = checkpoints is not None and (due or last)
        if done % log_every and not (last or save or judge):
            continue
        notes.losses(done)
        if save or judge or last:
            _check_finite(state, unbounded, f"{name}: after step {done}")
        if judge and early_stop is not None:
            quality = early_stop.judge(state)
            going = going.add(done, quality)
            notes.judgement(done, *quality, _end(going, early_stop, first_step, num_steps))
            save = save or (checkpoints is not None and _seconds_since(saved) >= save_seconds)
        stopped = _stopped(going, early_stop)
        if checkpoints is not None and (save or stopped):
            checkpoints.save(done, going.state if early_stop is None else going)
            saved = time.perf_counter()
        if stopped:
            break
    return _result(name, going, early_stop, num_steps)


def _begun(
    name: str,
    state: RowState,
    first_step: int,
    num_steps: int,
    checkpoints: Checkpoints | MeshCheckpoints | None,
    early_stop: EarlyStop | None,
) -> tuple[Progressed, int]:
    """Returns the newest checkpoint or the initial state, and the number of steps it has taken.

    Judges an initial state that may be the best one.

    Raises:
      InputError: the checkpoint is of a longer training, which would have another result, or has
        no room for the judgements of this one.
    """
    going = Progressed(state, state, jnp.full((MAX_JUDGEMENTS, 3), jnp.nan))
    if early_stop is not None:  # a step consumes the state, but not its copy
        going = going._replace(best=jax.tree.map(jnp.copy, state))
    if checkpoints is None or checkpoints.latest is None:
        if early_stop is not None and early_stop.judge_start:
            going = going.add(first_step, early_stop.judge(state))
        return going, first_step
    if early_stop is not None:
        going = checkpoints.restore(going)
    else:
        going = going._replace(state=checkpoints.restore(going.state))
    done = checkpoints.latest  # an earlier step than before if the newest was damaged
    if done > num_steps:
        raise InputError(
            f"{name}: its checkpoint is of step {done:,}, and {num_steps:,} steps are to be taken; "
            "take at least as many, or delete the checkpoints to train afresh"
        )
    if early_stop is not None:
        _check_room(name, len(going.judgements()), done, num_steps, early_stop.every)
    return going, done


def _drawn(draw: Callable[[int], Any], steps: range) -> Iterator[tuple[int, Any]]:
    """Yields the steps with their batches, which are drawn ahead of time."""
    return zip(steps, in_threads(draw, steps, num_threads=drawing_threads()), strict=True)


def _with_room(early_stop: EarlyStop | None, num_steps: int) -> EarlyStop | None:
    """Fewer judgements, if a checkpoint has no room for as many."""
    if early_stop is None:
        return None
    least = math.ceil(num_steps / (MAX_JUDGEMENTS - 2))
    return replace(early_stop, every=max(early_stop.every, least))


def _check_room(name: str, judged: int, done: int, num_steps: int, every: int) -> None:
    """Refuses a lengthened training whose checkpoint has no room for all judgements."""
    if done == num_steps:
        return
    further = num_steps // every - done // every + (num_steps % every > 0)
    if judged + further > MAX_JUDGEMENTS:
        raise InputError(
            f"{name}: its checkpoint has {judged:,} judgements, and {num_steps:,} steps would make "
            f"more than {MAX_JUDGEMENTS:,}; take fewer, or delete the checkpoints to train afresh"
        )


def _seconds_since(mark: float) -> float:
    return time.perf_counter() - mark


def _stopped(going: Progressed, early_stop: EarlyStop | None) -> bool:
    if early_stop is None:
        return False
    judgements, steps = going.without_gain()
    return judgements >= early_stop.patience and steps >= early_stop.patience_steps


def _result(
    name: str, going: Progressed, early_stop: EarlyStop | None, num_steps: int
) -> tuple[RowState, np.ndarray]:
    """The state that training returns, and the judgements.

    Warns if training ended at its maximum while it improved: if one of the last judgements, as many
    as the patience, is the best of more.
    """
    judgements = going.judgements()
    if early_stop is None:
        return going.state, judgements
    if going.without_gain()[0] < early_stop.patience < len(judgements):
        warnings.warn(
            f"{name}: training ended at its maximum of {num_steps:,} steps while results on "
            "held-out campaigns still improved; a larger maximum (offline_epochs) may help",
            stacklevel=3,
        )
    return going.best, judgements


def _end(going: Progressed, early_stop: EarlyStop | None, first_step: int, num_steps: int) -> int:
    """The step after which training ends if it improves no more."""
    if early_stop is None:
        return num_steps
    judged, every = going.judgements(), early_stop.every
    best = int(judged[-1, 0]) - going.without_gain()[1] if len(judged) else first_step + every
    patience = max(early_stop.patience * every, early_stop.patience_steps)
    return min(num_steps, best + -(-patience // every) * every)


def _check_finite(state: Any, unbounded: set[str], when: str) -> None:
    """Refuses a state with a non-finite array: a loss may be finite even if weights are not."""
    for name in _nonfinite_arrays(state):
        if name not in unbounded:
            raise Diverged(f"{when}, {name} of the state is not finite")


def _unbounded(state: Any) -> set[str]:
    """Names of the optimiser's arrays that are not finite at the start, such as a best value."""
    return {name for name in _nonfinite_arrays(state) if name.startswith("opt_state")}


def _nonfinite_arrays(state: Any) -> list[str]:
    """Names of the arrays of a state that are not finite."""
    finite = named_leaves(jax.device_get(jax.jit(leaves_finite)(state)))
    return [name for name, good in finite.items() if not good]
