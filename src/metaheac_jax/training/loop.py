"""The offline loop: one general model from all existing campaigns (paper section 3.3).

Meta-training and plain training differ in the step and the sampler. Judging, checkpoints, logs and
progress are *hooks*: functions of a record, such as ``wandb.log``. A record is a dict with the
training's ``name``, a ``step``, the step ``of`` after which training ends, and one of

    resumed                        at the start: whether it goes on from a checkpoint
    loss, steps_per_second         the mean loss and the speed since the last such record
    held_out_auc, held_out_loss    a judgement

Axes: E judgements.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.backend import in_threads, profile
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.processes import from_first
from metaheac_jax.progress import Progress
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.step import RowStep

Record = dict[str, Any]
Hook = Callable[[Record], Any]


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
    """When training ends because it no longer improves.

    Attributes:
      every: number of steps between two judgements.
      patience: number of judgements without a higher AUC after which training ends.
      patience_steps: number of steps without a higher AUC before which training does not end. If
        few steps lie between judgements, a lucky one near the start would end it otherwise.
    """

    every: int
    patience: int
    patience_steps: int = 0


@dataclass
class Training:
    """What is trained and how, and how far it is.

    Attributes:
      step: from `step.build_row_step`.
      state: the state; the next step consumes it.
      draw: ``draw(step) -> (rows, *batches)``, a thread-safe sampler.
      num_steps: total number of steps; with ``early_stop``, the maximum.
      done: number of steps that ``state`` has taken.
      name: name of what is trained, for records and messages.
      early_stop: for the hook `Judging`; None takes all steps.
      log_every: number of steps between records of the loss, for which the loop waits for the
        device.
      resumed: whether it goes on from a checkpoint.
      best: the state with the highest held-out AUC; None without early stopping.
      judgements: (E, 3) float32 step, AUC and loss of each judgement.
      first: ``done`` at the start.
    """

    step: RowStep
    state: Any
    draw: Callable[[int], Any]
    num_steps: int
    done: int = 0
    name: str = "offline"
    early_stop: EarlyStop | None = None
    log_every: int = field(default=20, kw_only=True)
    resumed: bool = False
    best: Any = field(default=None, init=False)
    judgements: np.ndarray = field(init=False)
    first: int = field(init=False)

    def __post_init__(self) -> None:
        self.judgements, self.first = np.empty((0, 3), np.float32), self.done
        if self.early_stop is not None:  # a step consumes the state, but not its copy
            self.best = jax.tree.map(jnp.copy, self.state)

    @property
    def without_gain(self) -> tuple[int, int]:
        """Number of judgements, and of steps, since the best judgement."""
        if not len(self.judgements):
            return 0, 0
        best = int(np.argmax(np.nan_to_num(self.judgements[:, 1], nan=-np.inf)))
        steps = self.judgements[-1, 0] - self.judgements[best, 0]
        return len(self.judgements) - 1 - best, int(steps)

    @property
    def stopped(self) -> bool:
        """Whether training has taken all steps, or does not improve any more."""
        if self.early_stop is None or self.done >= self.num_steps:
            return self.done >= self.num_steps
        judgements, steps = self.without_gain
        return judgements >= self.early_stop.patience and steps >= self.early_stop.patience_steps

    @property
    def end(self) -> int:
        """The step after which training ends if it improves no more."""
        if self.early_stop is None:
            return self.num_steps
        every = self.early_stop.every
        last = int(self.judgements[-1, 0]) if len(self.judgements) else self.first + every
        patience = max(self.early_stop.patience * every, self.early_stop.patience_steps)
        return min(self.num_steps, last - self.without_gain[1] + -(-patience // every) * every)


def train(training: Training, hooks: Sequence[Hook] = ()) -> tuple[Any, np.ndarray]:
    """Takes the steps of a training that are left.

    Args:
      training: what is trained; it is changed.
      hooks: each is called with every record, in this order.

    Returns:
      The state, or the best one if there is early stopping, and the judgements (E, 3).

    Raises:
      Diverged: a loss, a gradient, a parameter or a moment is not finite.
    """

    def send(**values: Any) -> None:
        judged = len(training.judgements)
        record = {"name": training.name, "step": training.done, "of": training.end, **values}
        for hook in hooks:
            hook(record)
        for _, auc, loss in training.judgements[judged:].tolist():
            send(held_out_auc=auc, held_out_loss=loss)

    send(resumed=training.resumed)
    every = [training.log_every]
    if training.early_stop is not None:
        every.append(training.early_stop.every)
    infos, mark = list[Any](), time.perf_counter()
    steps = range(training.done, training.done if training.stopped else training.num_steps)
    batches = in_threads(training.draw, steps, num_threads=profile().num_drawing_threads)
    for number, batch in zip(steps, batches, strict=True):
        training.state, info = training.step.step(training.state, *batch)
        training.done = number + 1
        infos.append(info)
        if training.done < training.num_steps and all(training.done % own for own in every):
            continue
        seconds = time.perf_counter() - mark
        send(loss=_mean_loss(training, infos), steps_per_second=len(infos) / seconds)
        infos, mark = [], time.perf_counter()
        if training.stopped:
            break
    return training.state if training.best is None else training.best, training.judgements


def _mean_loss(training: Training, infos: Sequence[Any]) -> float:
    """The mean loss of the last steps; waits for the device.

    Raises:
      Diverged: a step is not finite; the message names the step and the array.
    """
    losses = np.asarray(jnp.stack([info.loss for info in infos]))
    taken = np.asarray(jnp.stack([info.taken for info in infos]))
    for place in np.flatnonzero(~taken)[:1].tolist():
        info, number = infos[place], training.done - len(infos) + place + 1
        array = f"loss is {info.loss}"
        if np.isfinite(info.loss):
            array = next(n for n, good in named_leaves(info.finite).items() if not good)
            array += " is not finite"
        raise Diverged(f"{training.name}: step {number}: the {array}; lower the learning rates")
    return float(losses.mean())


class Judging:
    """A hook that judges the state on held-out campaigns, keeps the best and ends training."""

    def __init__(self, training: Training, judge: Callable[[Any], Quality]) -> None:
        """Args:
        training: has an `EarlyStop`.
        judge: judges a state; also the initial one if it has taken steps, as it may be the best.
        """
        self._training, self._judge = training, judge

    def __call__(self, record: Record) -> None:
        """Judges the state if it is time."""
        training, stop = self._training, self._training.early_stop
        assert stop is not None
        last, aucs = training.done == training.num_steps, training.judgements[:, 1]
        start = "resumed" in record and training.first > 0 and not len(aucs)
        if not start and ("loss" not in record or not (last or training.done % stop.every == 0)):
            return
        quality = self._judge(training.state)
        # An AUC that is not a number is never better; the first state counts in any case.
        if not len(aucs) or quality.auc > np.nanmax(aucs, initial=-np.inf):
            training.best = jax.tree.map(jnp.copy, training.state)
        line = np.array([[training.done, *quality]], np.float32)
        training.judgements = np.vstack([training.judgements, line])


class Saving:
    """A hook that saves checkpoints, from the newest of which the training goes on.

    It comes after `Judging`, whose last judgement a checkpoint contains.
    """

    def __init__(
        self, training: Training, checkpoints: Checkpoints, *, seconds: float = 60.0
    ) -> None:
        """Args:
        training: goes on from the newest checkpoint, if there is one.
        checkpoints: where to save; the last checkpoint is of the last step.
        seconds: time between checkpoints, which are saved at the next record of the loss.

        Raises:
          InputError: the checkpoint is of a later step.
        """
        self._training, self._checkpoints = training, checkpoints
        self._seconds, self._saved = seconds, time.perf_counter()
        if checkpoints.latest is None:
            return
        arrays, notes = checkpoints.restore(self._arrays())
        training.state, training.best = arrays["state"], arrays.get("best")
        training.judgements = np.array(notes["judgements"], np.float32).reshape(-1, 3)
        training.done, training.resumed = checkpoints.latest, True
        if training.done > training.num_steps:  # a longer training has another result
            raise InputError(
                f"{training.name}: its checkpoint is of step {training.done:,}, and "
                f"{training.num_steps:,} steps are to be taken; take at least as many, or delete "
                "the checkpoints to train afresh"
            )

    def __call__(self, record: Record) -> None:
        """Saves a checkpoint if it is time.

        Raises:
          OSError: a checkpoint cannot be saved.
        """
        if "loss" not in record:
            return
        training, now = self._training, time.perf_counter()
        due = from_first(now - self._saved >= self._seconds)  # the clocks of processes differ
        if due or training.stopped:
            notes = {"judgements": training.judgements.tolist()}
            self._checkpoints.save(training.done, self._arrays(), notes)
            self._saved = now

    def _arrays(self) -> dict[str, Any]:
        best = self._training.best
        return {"state": self._training.state} | ({} if best is None else {"best": best})


def to_progress(progress: Progress) -> Hook:
    """A hook that reports the number of steps done, with the last held-out AUC."""
    judged = ""

    def hook(record: Record) -> None:
        nonlocal judged
        if "held_out_auc" in record:
            judged = f": held-out AUC {record['held_out_auc']:.4f}"
        progress(record["name"] + judged, record["step"], record["of"])

    return hook
