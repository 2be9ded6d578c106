"""The offline stage: one general model from all existing campaigns (paper section 3.3).

One loop serves meta-training and plain training alike: what differs is the step and the sampler.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from metaheac_jax.checkpoint import Checkpoints
from metaheac_jax.data.sampling import prefetch
from metaheac_jax.losses import Loss
from metaheac_jax.network import Network
from metaheac_jax.progress import Progress, silent
from metaheac_jax.rows import RowState, RowStep


class General(NamedTuple):
    """The general model: parameters of the network, and the whole table (R, k)."""

    network: Any
    table: Array


class PlainInfo(NamedTuple):
    """What a report of plain training needs: the batch's mean loss, ()."""

    loss: Array


class Diverged(RuntimeError):
    """The loss is no longer a number; the message names the step."""


def plain_gradient(loss: Loss) -> Callable[[Any, Any], tuple[Any, PlainInfo]]:
    """``gradient(params, batch) -> (gradient, info)`` of training without meta-learning."""

    def gradient(params: Any, batch: Any) -> tuple[Any, PlainInfo]:
        value, grads = jax.value_and_grad(loss)(params, batch)
        return grads, PlainInfo(value)

    return gradient


def initialise(
    network: Network,
    key: Array,
    *,
    rows: int,
    user_fields: int,
    campaign_fields: int,
    width: int,
    scale: float = 1.0,
) -> General:
    """A model that has learned nothing: table rows from N(0, scale^2), layers as the authors have.

    Args:
      network: whose parameters to draw.
      key: consumed; half for the network, half for the table.
      rows: R.
      user_fields: M.
      campaign_fields: N.
      width: k.
      scale: standard deviation of the table's entries.
    """
    network_key, table_key = jax.random.split(key)
    user, campaign = jnp.zeros((1, user_fields, width)), jnp.zeros((campaign_fields, width))
    table = scale * jax.random.normal(table_key, (rows, width))
    return General(jax.jit(network.init)(network_key, user, campaign), table)


def train(
    step: RowStep,
    state: RowState,
    draw: Callable[[int], Any],
    *,
    steps: int,
    name: str = "offline",
    checkpoints: Checkpoints | None = None,
    save_every: int = 500,
    log: Path | None = None,
    log_every: int = 20,
    progress: Progress = silent,
) -> RowState:
    """Trains from the newest checkpoint, or from ``state``, until ``steps`` steps are done.

    Args:
      step: from `rows.build_row_step`; its info has a field ``loss``.
      state: the initial state; consumed.
      draw: ``draw(step) -> (rows, *batches)``, a sampler.
      steps: in all.
      name: of what is trained, for the log and the progress.
      checkpoints: where to save every ``save_every`` steps and at the end, and to resume from.
      save_every: steps between checkpoints.
      log: a file that gets a JSON line every ``log_every`` steps: name, step, mean loss since the
        line before, steps per second, seconds.
      log_every: steps between log lines; the device is not waited for in between.
      progress: told the loss, and steps done.

    Raises:
      Diverged: a loss is not a number; nothing of that step or later is saved.
    """
    done = 0
    if checkpoints is not None and checkpoints.latest is not None:
        state = checkpoints.restore(state)
        done = checkpoints.latest
    began = mark = time.perf_counter()
    losses: list[Array] = []
    progress(name, done, steps)
    for number, batch in prefetch(draw, range(done, steps)):
        state, info = step.step(state, *batch)
        losses.append(info.loss)
        done = number + 1
        save = checkpoints is not None and (done % save_every == 0 or done == steps)
        if done % log_every and done != steps and not save:
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
                "seconds": now - began,
            }
            with log.open("a") as file:
                file.write(json.dumps(line) + "\n")
        progress(f"{name}: loss {values.mean():.4g}", done, steps)
        losses, mark = [], now
        if save and checkpoints is not None:
            checkpoints.save(done, state)
    return state
