"""Regression of sine waves from few examples, as in Finn et al. (2017, section 5.1).

``python -m experiments.examples.sine`` meta-trains on support sets of 10 examples with one inner
step. It prints the median and the 90% quantile of the mean squared error on new waves, after 0, 1
and 10 steps on 5 and 10 examples. Their mean would depend on rounding, since ten steps diverge on
a few waves. ``--figure docs/sine.png`` draws the predictions for one of them.

Axes: C tasks, N examples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from matplotlib.figure import Figure

from metaheac_jax.cli import terminal
from metaheac_jax.meta import build_meta_step, inner_update

ALPHA, BETA = 0.01, 0.001
TASKS_PER_STEP, TRAINING_SHOTS = 25, 10
SIZES = (1, 40, 40, 1)
NUM_TEST_TASKS, NUM_TEST_EXAMPLES = 2000, 100


@dataclass(frozen=True)
class Options:
    """Meta-trains on sine waves and prints the error on new ones."""

    iterations: int = 70_000
    """Number of meta-steps."""
    seed: int = 0
    """Seed of the initial parameters and of all waves."""
    figure: Path | None = None
    """Image file to draw one new wave to."""


class Examples(NamedTuple):
    """Positions (C, N) in [-5, 5], and the waves' values there."""

    x: Array
    y: Array


def draw(key: Array, num_tasks: int, sizes: Sequence[int]) -> list[Examples]:
    """Sets of examples of random waves, with amplitudes of .1 to 5 and phases of 0 to pi."""
    own, *keys = jax.random.split(key, len(sizes) + 1)
    amplitude, phase = jax.random.uniform(own, (2, num_tasks, 1))
    xs = [
        jax.random.uniform(k, (num_tasks, n), minval=-5, maxval=5)
        for k, n in zip(keys, sizes, strict=True)
    ]
    return [Examples(x, (0.1 + 4.9 * amplitude) * jnp.sin(x - jnp.pi * phase)) for x in xs]


def initial(key: Array) -> list[dict[str, Array]]:
    """Initial parameters of the layers, drawn as by Glorot and Bengio (2010)."""
    glorot, keys = jax.nn.initializers.glorot_normal(), jax.random.split(key, len(SIZES) - 1)
    shapes = zip(keys, SIZES[:-1], SIZES[1:], strict=True)
    return [{"kernel": glorot(k, (m, n)), "bias": jnp.zeros(n)} for k, m, n in shapes]


def predict(params: Any, x: Array) -> Array:
    """(N,) positions -> (N,) values."""
    hidden = x[:, None]
    for layer in params[:-1]:
        hidden = jax.nn.relu(hidden @ layer["kernel"] + layer["bias"])
    return (hidden @ params[-1]["kernel"] + params[-1]["bias"])[:, 0]


def loss(params: Any, batch: Examples) -> Array:
    """Mean squared error."""
    return jnp.mean((predict(params, batch.x) - batch.y) ** 2)


def keys_of(seed: int) -> Array:
    """The key of training, and that of new waves."""
    return jax.random.split(jax.random.key(seed))


def train(options: Options) -> Any:
    """The parameters after meta-training."""
    keys = jax.random.split(keys_of(options.seed)[0], options.iterations + 1)
    init, step = build_meta_step(
        loss, optax.adam(BETA), inner_learning_rate=ALPHA, campaigns_per_chunk="all"
    )

    def iteration(state: Any, key: Array) -> tuple[Any, None]:
        return step(state, *draw(key, TASKS_PER_STEP, [TRAINING_SHOTS] * 2))[0], None

    return jax.jit(lambda state, keys: jax.lax.scan(iteration, state, keys)[0])(
        init(initial(keys[0])), keys[1:]
    ).params


def errors(params: Any, shots: int, steps: int, seed: int) -> tuple[float, float]:
    """The median and the 90% quantile of the mean squared error on new waves."""

    def after(support: Examples, query: Examples) -> Array:
        adapted = inner_update(
            loss, params, support, inner_learning_rate=ALPHA, inner_steps=steps
        ).params
        return loss(adapted, query)

    found = jax.vmap(after)(*draw(keys_of(seed)[1], NUM_TEST_TASKS, [shots, NUM_TEST_EXAMPLES]))
    median, high = jnp.quantile(jnp.nan_to_num(found, nan=jnp.inf), jnp.array([0.5, 0.9]))
    return float(median), float(high)


def draw_figure(params: Any, path: Path, seed: int) -> None:
    """Draws a new wave, five examples of it, and the predictions before and after adapting."""
    figure = Figure((7, 3), layout="constrained")
    axes = figure.subplots()
    own, whole = draw(keys_of(seed)[1], 1, [5, 400])
    support = Examples(*(leaf[0] for leaf in own))
    x, y = (leaf[0][jnp.argsort(whole.x[0])] for leaf in whole)
    axes.plot(x, y, color="0.6", linewidth=4, label="the wave")
    for steps, style in ((0, ":"), (1, "--"), (10, "-")):
        adapted = inner_update(
            loss, params, support, inner_learning_rate=ALPHA, inner_steps=steps
        ).params
        label = f"after {steps} step{'s' * (steps != 1)}"
        axes.plot(x, predict(adapted, x), style, label=label)
    axes.plot(*support, "ko", label="5 examples")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def main(options: Options) -> int:
    """Runs the command; returns its exit code."""
    params = train(options)
    if options.figure is not None:
        draw_figure(params, options.figure, options.seed)
    print("| examples | steps | median | 90% quantile |\n|---:|---:|---:|---:|")
    for shots in (5, 10):
        for steps in (0, 1, 10):
            median, high = errors(params, shots, steps, options.seed)
            print(f"| {shots} | {steps} | {median:.2f} | {high:.2f} |")
    return 0


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.examples.sine")
