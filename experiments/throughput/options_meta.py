"""The cost of each option of the meta-step: seconds and memory, relative to the step without it.

``python -m experiments.throughput.options_meta`` times meta-gradients of one network in turns, in
one process on one core. Times are processor time, the minimum over all turns. Memory is the
temporary memory of the compiled program.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from experiments.comparison.origin import device_name
from experiments.throughput.rivals_meta import ALPHA, SIZES, Name, layers, tasks
from metaheac_jax.cli import terminal
from metaheac_jax.errors import check_whole
from metaheac_jax.training.implicit import Implicit
from metaheac_jax.training.inner import inner_update
from metaheac_jax.training.meta_step import build_meta_gradient

TURN_STEPS = 3


@dataclass(frozen=True)
class Options:
    """Times the meta-step with each of its options, taking turns."""

    size: Name = "wide"
    """Network: wide (64-256-256-1, 16 tasks of 64 examples) or sine (1-40-40-1, 25 of 10)."""
    inner_steps: int = 5
    """Inner steps per case."""
    rounds: int = 7
    """Timed turns per case, after an untimed first one."""


def predict(params: Any, x: Array) -> Array:
    """Applies the network: (N, in) -> (N,)."""
    for kernel, bias in params[:-1]:
        x = jax.nn.relu(x @ kernel + bias)
    kernel, bias = params[-1]
    return (x @ kernel + bias)[:, 0]


def loss(params: Any, batch: Any) -> Array:
    """Mean squared error."""
    return jnp.mean((predict(params, batch[0]) - batch[1]) ** 2)


def loss_with_aux(params: Any, batch: Any) -> tuple[Array, Array]:
    """The error, and the predictions."""
    y = predict(params, batch[0])
    return jnp.mean((y - batch[1]) ** 2), y


def loss_with_state(params: Any, batch: Any, model_state: Array) -> tuple[Array, Array]:
    """The error on inputs centred by their batch mean, and the running mean of batch means."""
    mean = batch[0].mean(0)
    return loss(params, (batch[0] - mean, batch[1])), 0.9 * model_state + 0.1 * mean


class Case(NamedTuple):
    """A gradient and its arguments."""

    name: str
    gradient: Callable[..., Any]
    arguments: tuple[Any, ...]


def cases(options: Options) -> list[Case]:
    """The step without options, then with each."""
    size, steps = SIZES[options.size], options.inner_steps
    params = jax.tree.map(jnp.asarray, layers(size))
    support, query = jax.tree.map(jnp.asarray, tasks(size))
    state = jnp.zeros(size.widths[0])
    head = [False] * (len(params) - 1) + [True]
    shared: dict[str, Any] = {"inner_steps": steps, "campaigns_per_chunk": "all"}
    build = partial(build_meta_gradient, loss, **shared)
    rate = partial(build, inner_learning_rate=ALPHA)
    other = partial(build_meta_gradient, inner_learning_rate=ALPHA, **shared)
    with_state = other(loss_with_state, has_state=True)
    batches = params, support, query

    def reptile(params: Any, support: Any) -> Any:
        adapt = partial(inner_update, loss, inner_learning_rate=ALPHA, inner_steps=steps)
        adapted = jax.vmap(adapt, (None, 0))(params, support).params
        return jax.tree.map(lambda own, theirs: own - theirs.mean(0), params, adapted)

    def state_gradient(*arguments: Any) -> Any:
        return with_state(*arguments, model_state=state)

    adam, root = optax.adam(ALPHA, eps_root=1e-8), Implicit(strength=1.0, num_cg_steps=5)
    many = partial(rate, inner_steps=4 * steps)
    return [
        Case("(none)", rate(), batches),
        Case("`inner_steps`: 1", rate(inner_steps=1), batches),
        Case(f"`inner_steps`: {4 * steps}", many(), batches),
        Case("`inner_optimizer`: momentum", build(inner_optimizer=optax.sgd(ALPHA, 0.9)), batches),
        Case("`inner_optimizer`: Adam", build(inner_optimizer=adam), batches),
        Case("`adapt`: the last layer", rate(adapt=head), batches),
        Case("`has_aux`: predictions", other(loss_with_aux, has_aux=True), batches),
        Case("`has_state`: running mean of inputs", state_gradient, batches),
        Case("`query_loss`", rate(query_loss=lambda p, b: 2 * loss(p, b)), batches),
        Case("`step_weights`", rate(step_weights=[1 / steps] * steps), batches),
        Case("`first_order`", rate(first_order=True), batches),
        Case("`remat`", rate(remat=True), batches),
        Case(f"`remat`, `inner_steps`: {4 * steps}", many(remat=True), batches),
        Case("`campaigns_per_chunk`: 1", rate(campaigns_per_chunk=1), batches),
        Case("`implicit`", rate(implicit=root), batches),
        Case(f"`implicit`, `inner_steps`: {4 * steps}", many(implicit=root), batches),
        Case("Reptile", reptile, (params, support)),
    ]


def main(options: Options) -> int:
    """Runs the command; returns its exit code."""
    check_whole("--inner-steps", options.inner_steps, 1)
    check_whole("--rounds", options.rounds, 1)
    compiled, seconds = [], []
    for case in cases(options):
        compiled.append((jax.jit(case.gradient).lower(*case.arguments).compile(), case))
        seconds.append([])
    for number in range(options.rounds + 1):
        for (program, case), kept in zip(compiled, seconds, strict=True):
            began = time.process_time()
            for _ in range(TURN_STEPS):
                jax.block_until_ready(program(*case.arguments))
            if number:
                kept.append((time.process_time() - began) / TURN_STEPS)
    memory = [program.memory_analysis().temp_size_in_bytes for program, _ in compiled]
    print("| option | ms | time | MB | memory |\n|---|---:|---:|---:|---:|")
    for (_, case), kept, size in zip(compiled, seconds, memory, strict=True):
        ratio, relative = min(kept) / min(seconds[0]), size / memory[0]
        milliseconds, megabytes = 1000 * min(kept), size / 2**20
        print(
            f"| {case.name} | {milliseconds:.3g} | {ratio:.2f} | {megabytes:.3g} | {relative:.2f} |"
        )
    print(f"\n{device_name()}, one used; jax {jax.__version__}")
    return 0


def use_one_core(options: Options) -> None:
    """Keeps the threads that jax will start on one core."""
    del options
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


if __name__ == "__main__":
    prog = "python -m experiments.throughput.options_meta"
    terminal.command(Options, main, start=use_one_core, prog=prog)
