"""The offline loop: one general model from all existing campaigns (paper section 3.3).

Meta-training and plain training differ in the step and the sampler. Logs and progress are *hooks*:
functions of a record, such as ``wandb.log``. A record is a dict with the training's ``name``, a
``step``, the step ``of`` after which training ends, and one of

    resumed                        at the start: whether it goes on from a checkpoint
    loss, steps_per_second         the mean loss and the speed since the last such record
    held_out_auc, held_out_loss    a judgement
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from metaheac_jax.backend import in_threads, profile
from metaheac_jax.boundary import COUNT, check_plain
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.model import Judgement
from metaheac_jax.processes import from_first
from metaheac_jax.progress import Progress
from metaheac_jax.training.checkpoint import Checkpoints, named_leaves
from metaheac_jax.training.step import RowStep

Record = dict[str, Any]
Hook = Callable[[Record], Any]
#: ``judge(state, step)`` judges a state that has taken so many steps.
Judge = Callable[[Any, int], Judgement]


@dataclass(frozen=True)
class EarlyStop:
    """When training ends because it no longer improves.

    Attributes:
      judge: judges a state.
      every: number of steps between two judgements.
      patience: number of judgements without a higher AUC after which training ends.
      patience_steps: number of steps without a higher AUC before which training does not end. If
        few steps lie between judgements, a lucky one near the start would end it otherwise.
    """

    judge: Judge
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
      early_stop: None takes all steps.
      log_every: number of steps between records of the loss, for which the loop waits for the
        device.
      save_seconds: time between checkpoints, which are saved at the next record of the loss.
      best: the state with the highest held-out AUC; None without early stopping.
      judgements: in the order of steps.
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
    save_seconds: float = field(default=60.0, kw_only=True)
    best: Any = field(default=None, init=False)
    judgements: list[Judgement] = field(default_factory=list, init=False)
    first: int = field(init=False)

    def __post_init__(self) -> None:
        self.first = self.done
        if self.early_stop is not None:  # a step consumes the state, but not its copy
            self.best = jax.tree.map(jnp.copy, self.state)

    @property
    def without_gain(self) -> tuple[int, int]:
        """Number of judgements, and of steps, since the best judgement."""
        if not self.judgements:
            return 0, 0
        aucs = [
            -np.inf if np.isnan(judgement.auc) else judgement.auc for judgement in self.judgements
        ]
        best = int(np.argmax(aucs))
        return len(aucs) - 1 - best, self.judgements[-1].step - self.judgements[best].step

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
        last = self.judgements[-1].step if self.judgements else self.first + every
        patience = max(self.early_stop.patience * every, self.early_stop.patience_steps)
        return min(self.num_steps, last - self.without_gain[1] + -(-patience // every) * every)

    def judge(self, stop: EarlyStop) -> Judgement:
        """Judges the state, and keeps it if it is the best."""
        found = stop.judge(self.state, self.done)
        # In single precision, so that rounding is no gain.
        auc, loss = np.array([found.auc, found.loss], np.float32).tolist()
        # An AUC that is not a number is never better; the first state counts in any case.
        known = [judgement.auc for judgement in self.judgements if not np.isnan(judgement.auc)]
        if not self.judgements or auc > max(known, default=-np.inf):
            self.best = jax.tree.map(jnp.copy, self.state)
        self.judgements.append(Judgement(self.done, auc, loss))
        return self.judgements[-1]

    def resume(self, checkpoints: Checkpoints) -> bool:
        """Goes on from the newest checkpoint; says whether there is one.

        Raises:
          InputError: the checkpoint is of a later step than the last one, or is damaged.
        """
        if checkpoints.latest is None:
            return False
        arrays, notes = checkpoints.restore(self.arrays)
        judged, remedy = {"judgements": [[COUNT, float, float]]}, "delete the checkpoint"
        check_plain(notes, judged, f"{checkpoints.directory}: notes", remedy)
        self.state, self.best, self.done = arrays["state"], arrays.get("best"), checkpoints.latest
        self.judgements = [Judgement(*judgement) for judgement in notes["judgements"]]
        if self.done > self.num_steps:  # a longer training has another result
            raise InputError(
                f"{self.name}: its checkpoint is of step {self.done:,}, and {self.num_steps:,} "
                "steps are to be taken; take at least as many, or delete the checkpoints to train "
                "afresh"
            )
        return True

    @property
    def arrays(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {"state": self.state} | ({} if self.best is None else {"best": self.best})


def train(
    training: Training, hooks: Sequence[Hook] = (), checkpoints: Checkpoints | None = None
) -> tuple[Any, tuple[Judgement, ...]]:
    """Takes the steps of a training that are left.

    A judgement comes first, then a checkpoint, which has it, and then the hooks.

    Args:
      training: what is trained; it is changed.
      hooks: each is called with every record, in this order.
      checkpoints: from the newest of which the training goes on; the last one is of the last step.

    Returns:
      The state, or the best one if there is early stopping, and the judgements.

    Raises:
      InputError: the newest checkpoint is of a later step than the last one.
      Diverged: a loss, a gradient, a parameter or a moment is not finite.
      OSError: a checkpoint cannot be saved.
    """

    def tell(judgement: Judgement | None, **values: Any) -> None:
        each = [values]
        if judgement is not None:
            each.append({"held_out_auc": judgement.auc, "held_out_loss": judgement.loss})
        for own in each:
            record = {"name": training.name, "step": training.done, "of": training.end, **own}
            for hook in hooks:
                hook(record)

    stop, saved = training.early_stop, time.perf_counter()
    resumed = checkpoints is not None and training.resume(checkpoints)
    judgement = None
    if stop is not None and training.first and not training.judgements:
        judgement = training.judge(stop)  # the start has taken steps, so it may be the best
    tell(judgement, resumed=resumed)
    every = [training.log_every] + ([] if stop is None else [stop.every])
    infos, mark = list[Any](), time.perf_counter()
    steps = range(training.done, training.done if training.stopped else training.num_steps)
    batches = in_threads(training.draw, steps, num_threads=profile().num_drawing_threads)
    for number, batch in zip(steps, batches, strict=True):
        training.state, info = training.step.step(training.state, *batch)
        training.done = number + 1
        infos.append(info)
        last = training.done == training.num_steps
        if not last and all(training.done % own for own in every):
            continue
        seconds = time.perf_counter() - mark
        values = {"loss": _mean_loss(training, infos), "steps_per_second": len(infos) / seconds}
        judgement = None
        if stop is not None and (last or training.done % stop.every == 0):
            judgement = training.judge(stop)
        if checkpoints is not None:
            now = time.perf_counter()
            due = from_first(now - saved >= training.save_seconds)  # clocks of processes differ
            if due or training.stopped:
                notes = {"judgements": training.judgements}
                checkpoints.save(training.done, training.arrays, notes)
                saved = now
        tell(judgement, **values)
        infos, mark = [], time.perf_counter()
        if training.stopped:
            break
    best = training.state if training.best is None else training.best
    return best, tuple(training.judgements)


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


def to_progress(progress: Progress) -> Hook:
    """A hook that reports the number of steps done, with the last held-out AUC."""
    judged = ""

    def hook(record: Record) -> None:
        nonlocal judged
        if "held_out_auc" in record:
            judged = f": held-out AUC {record['held_out_auc']:.4f}"
        progress(record["name"] + judged, record["step"], record["of"])

    return hook
