"""The offline loop: one general model from all existing campaigns (paper section 3.3).

Meta-training and plain training differ in the step and the sampler.

Axes: E judgements.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.threads import drawing_threads, in_threads
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.log import Hook, Report
from metaheac_jax.training.step import RowState, RowStep, leaves_finite


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


class _Judged:
    """The judgements of a training, and its best state.

    Attributes:
      best: the state with the highest held-out AUC; None without early stopping.
      all: (E, 3) float32 step, AUC and loss of each judgement.
    """

    def __init__(self, early_stop: EarlyStop | None, start: RowState) -> None:
        self._stop, self.best, self.all = early_stop, None, np.empty((0, 3), np.float32)
        if early_stop is not None:  # a step consumes the state, but not its copy
            self.best = jax.tree.map(jnp.copy, start)

    def add(self, step: int, state: RowState) -> Quality:
        """Judges a state."""
        assert self._stop is not None
        quality = self._stop.judge(state)
        # An AUC that is not a number is never better; the first state counts in any case.
        if not len(self.all) or quality.auc > np.nanmax(self.all[:, 1], initial=-np.inf):
            self.best = jax.tree.map(jnp.copy, state)
        self.all = np.vstack([self.all, np.array([[step, *quality]], np.float32)])
        return quality

    def without_gain(self) -> tuple[int, int]:
        """Number of judgements, and of steps, since the best judgement."""
        if not len(self.all):
            return 0, 0
        best = int(np.argmax(np.nan_to_num(self.all[:, 1], nan=-np.inf)))
        return len(self.all) - 1 - best, int(self.all[-1, 0] - self.all[best, 0])

    def with_best(self, state: RowState) -> dict[str, RowState]:
        """The states that a checkpoint has."""
        return {"state": state} | ({} if self.best is None else {"best": self.best})

    def due(self, step: int, last: bool) -> bool:
        """Whether the state after a step is to be judged."""
        return self._stop is not None and (step % self._stop.every == 0 or last)

    def stopped(self) -> bool:
        """Whether training does not improve any more."""
        if self._stop is None:
            return False
        judgements, steps = self.without_gain()
        return judgements >= self._stop.patience and steps >= self._stop.patience_steps

    def end(self, first_step: int, num_steps: int) -> int:
        """The step after which training ends if it improves no more."""
        if self._stop is None:
            return num_steps
        every = self._stop.every
        last = int(self.all[-1, 0]) if len(self.all) else first_step + every
        patience = max(self._stop.patience * every, self._stop.patience_steps)
        return min(num_steps, last - self.without_gain()[1] + -(-patience // every) * every)

    def still_improved(self) -> bool:
        """Whether one of the last judgements, as many as the patience, is the best of more."""
        return self._stop is not None and (
            self.without_gain()[0] < self._stop.patience < len(self.all)
        )


def train(
    step: RowStep,
    state: RowState,
    draw: Callable[[int], Any],
    *,
    num_steps: int,
    first_step: int = 0,
    name: str = "offline",
    early_stop: EarlyStop | None = None,
    checkpoints: Checkpoints | None = None,
    hooks: Sequence[Hook] = (),
    campaigns_of: Callable[[int], np.ndarray] | None = None,
    skip_nonfinite: int = 0,
    save_every: int = 500,
    save_seconds: float = 60.0,
    log_every: int = 20,
) -> tuple[RowState, np.ndarray]:
    """Trains from the newest checkpoint, or from ``state``, up to step ``num_steps``.

    Args:
      step: from `step.build_row_step`.
      state: the initial state; it is consumed.
      draw: ``draw(step) -> (rows, *batches)``, a thread-safe sampler.
      num_steps: total number of steps; with ``early_stop``, the maximum.
      first_step: number of steps that ``state`` has taken.
      name: name of what is trained, for records and messages.
      early_stop: ends training earlier and returns the best state; None takes all steps.
      checkpoints: where to save and to resume from; the last checkpoint is of the last step.
      hooks: each is called with every record; see `training.log`.
      campaigns_of: maps a step, counted as by ``draw``, to its campaigns' ids, for messages.
      skip_nonfinite: how many non-finite checked steps may be skipped in total, each with a warning
        and a record.
      save_every, save_seconds: maximum number of steps, and of seconds, between checkpoints.
      log_every: number of steps between records of the loss, for which the loop waits for the
        device.

    Returns:
      The state, and the judgements (E, 3): step, AUC, loss.

    Raises:
      InputError: the checkpoint is of a later step or another state.
      OSError: a checkpoint cannot be saved.
      Diverged: a loss, a gradient, a parameter or a moment is not finite; that state is not saved.
    """
    unbounded, judged, done, notes = _unbounded(state), _Judged(early_stop, state), first_step, {}
    if checkpoints is not None and checkpoints.latest is not None:
        arrays, notes = checkpoints.restore(judged.with_best(state))
        state, judged.best = arrays["state"], arrays.get("best")
        judged.all = np.array(notes.pop("judgements"), np.float32).reshape(-1, 3)
        done = checkpoints.latest  # an earlier step than before if the newest was damaged
        if done > num_steps:  # a longer training has another result
            raise InputError(
                f"{name}: its checkpoint is of step {done:,}, and {num_steps:,} steps are to be "
                "taken; take at least as many, or delete the checkpoints to train afresh"
            )
    elif early_stop is not None and early_stop.judge_start:
        judged.add(first_step, state)
    report = Report(name, hooks, may_skip=skip_nonfinite, campaigns_of=campaigns_of, **notes)
    end = judged.end(first_step, num_steps)
    report.send(done, of=end, resumable=checkpoints is not None)
    saved, steps = time.perf_counter(), range(done, done if judged.stopped() else num_steps)
    batches = in_threads(draw, steps, num_threads=drawing_threads())
    for number, batch in zip(steps, batches, strict=True):
        state, info = step.step(state, *batch)
        report.add(info)
        done = number + 1
        last = done == num_steps
        judge = judged.due(done, last)
        late = time.perf_counter() - saved >= save_seconds
        save = checkpoints is not None and (done % save_every == 0 or late or last)
        if done % log_every and not (last or save or judge):
            continue
        report.losses(done, end)
        if save or judge or last:
            _check_finite(state, unbounded, f"{name}: after step {done}")
        if judge:
            quality = judged.add(done, state)
            end = judged.end(first_step, num_steps)
            report.judgement(done, *quality, end)
            save = save or time.perf_counter() - saved >= save_seconds or judged.stopped()
        if checkpoints is not None and save:
            notes: dict[str, Any] = {"seconds": report.seconds, "skipped": report.skipped}
            notes["judgements"] = judged.all.tolist()
            checkpoints.save(done, judged.with_best(state), notes)
            saved = time.perf_counter()
        if judged.stopped():
            break
    if judged.still_improved():
        warnings.warn(
            f"{name}: training ended at its maximum of {num_steps:,} steps while results on "
            "held-out campaigns still improved; a larger maximum (offline_epochs) may help",
            stacklevel=2,
        )
    return state if judged.best is None else judged.best, judged.all


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
