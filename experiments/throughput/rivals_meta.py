"""The meta-step against other programs: the same network and tasks, in one run, taking turns.

``python -m experiments.throughput.rivals_meta`` compares plain JAX and, where installed,
``torch.func`` (vmap of grad) with and without ``torch.compile``. Each program runs on one core in a
process of its own, so that its memory can be measured. Times are processor time, so that other work
on the machine does not count. All programs start from the same parameters; a program is refused if
its losses in the first steps differ.

Axes: C tasks, N examples of a support set, and of a query set.
"""

from __future__ import annotations

import functools
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from metaheac_jax.errors import check_whole

ALPHA, BETA = 0.01, 0.001
NUM_CHECKED = 3  # steps whose losses are compared
TURN_SECONDS, MAX_TURN_STEPS = 0.5, 20

#: ``step(support, query) -> loss``: one meta-step on numpy pairs (x, y), which updates its state.
Step = Callable[[Any, Any], float]


class Size(NamedTuple):
    """A network and its tasks: layer widths, C, N, and the ``campaigns_per_chunk`` of `ours`."""

    widths: tuple[int, ...]
    num_tasks: int
    num_examples: int
    chunk: Literal["auto", "all"] = "auto"


Name = Literal["sine", "wide"]
SIZES: dict[Name, Size] = {
    "sine": Size((1, 40, 40, 1), 25, 10, "all"),
    "wide": Size((64, 256, 256, 1), 16, 64),
}


@dataclass(frozen=True)
class Options:
    """Times a second-order meta-step of this package and of other programs, taking turns."""

    sizes: tuple[Name, ...] = tuple(SIZES)
    """Networks: sine (1-40-40-1, 25 tasks of 10 examples), wide (64-256-256-1, 16 of 64)."""
    inner_steps: tuple[int, ...] = (1, 5, 20)
    """Numbers of inner steps."""
    rounds: int = 5
    """Timed turns per program, after an untimed first one."""


def layers(size: Size) -> list[tuple[np.ndarray, np.ndarray]]:
    """Initial kernel (in, out) and bias of each layer."""
    rng = np.random.default_rng(0)
    shapes = zip(size.widths[:-1], size.widths[1:], strict=True)
    draws = [rng.normal(size=(m, n), scale=(2 / (m + n)) ** 0.5) for m, n in shapes]
    return [(kernel.astype(np.float32), np.zeros(kernel.shape[1], np.float32)) for kernel in draws]


def tasks(size: Size) -> Any:
    """Support and query, each x (C, N, in) and y (C, N): sine waves along a direction per task."""
    rng = np.random.default_rng(1)
    amplitude, phase = rng.uniform(0.1, 5, (size.num_tasks, 1)), rng.uniform(0, np.pi, (1, 1))
    direction = rng.normal(size=(size.num_tasks, size.widths[0], 1)) / size.widths[0] ** 0.5

    def side() -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(-5, 5, (size.num_tasks, size.num_examples, size.widths[0]))
        y = amplitude * np.sin((x @ direction)[..., 0] - phase)
        return x.astype(np.float32), y.astype(np.float32)

    return side(), side()


def jax_loss(params: Any, batch: Any) -> Any:
    """The mean squared error of the network in JAX."""
    import jax
    import jax.numpy as jnp

    hidden, y = batch
    for kernel, bias in params[:-1]:
        hidden = jax.nn.relu(hidden @ kernel + bias)
    kernel, bias = params[-1]
    return jnp.mean(((hidden @ kernel + bias)[:, 0] - y) ** 2)


def ours(size: Size, inner_steps: int) -> Step:
    """The meta-step of this package."""
    import jax
    import jax.numpy as jnp
    import optax

    from metaheac_jax.training.meta_step import build_meta_step

    init, step = build_meta_step(
        jax_loss,
        optax.adam(BETA),
        inner_learning_rate=ALPHA,
        inner_steps=inner_steps,
        campaigns_per_chunk=size.chunk,
    )
    state = init(jax.tree.map(jnp.asarray, layers(size)))

    def run(support: Any, query: Any) -> float:
        nonlocal state
        state, info = step(state, support, query)
        return float(info.loss)

    return run


def jax_by_hand(size: Size, inner_steps: int) -> Step:
    """The same in plain JAX and optax, in a page: inner steps in a loop, jit of the whole step."""
    import jax
    import jax.numpy as jnp
    import optax

    optimizer = optax.adam(BETA)

    def task_loss(theta: Any, support: Any, query: Any) -> jax.Array:
        for _ in range(inner_steps):
            slopes = jax.grad(jax_loss)(theta, support)
            theta = jax.tree.map(lambda p, slope: p - ALPHA * slope, theta, slopes)
        return jax_loss(theta, query)

    def meta_loss(params: Any, support: Any, query: Any) -> jax.Array:
        return jax.vmap(task_loss, in_axes=(None, 0, 0))(params, support, query).mean()

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def step(params: Any, state: Any, support: Any, query: Any) -> Any:
        value, slopes = jax.value_and_grad(meta_loss)(params, support, query)
        updates, state = optimizer.update(slopes, state, params)
        return optax.apply_updates(params, updates), state, value

    params = jax.tree.map(jnp.asarray, layers(size))
    state = optimizer.init(params)

    def run(support: Any, query: Any) -> float:
        nonlocal params, state
        params, state, value = step(params, state, support, query)
        return float(value)

    return run


def torch_network(size: Size) -> Any:
    """The same network in PyTorch."""
    import torch  # pyrefly: ignore
    from torch import nn  # pyrefly: ignore

    parts: list[nn.Module] = []
    for kernel, bias in layers(size):
        linear = nn.Linear(*kernel.shape)
        linear.weight.data, linear.bias.data = torch.tensor(kernel.T), torch.tensor(bias)
        parts += [linear, nn.ReLU()]
    return nn.Sequential(*parts[:-1], nn.Flatten(0))


def as_tensors(side: Any) -> Any:
    """x and y as tensors that share their memory."""
    import torch  # pyrefly: ignore

    return [torch.from_numpy(leaf) for leaf in side]


def torch_func(size: Size, inner_steps: int, *, compiled: bool = False) -> Step:
    """``torch.func``: vmap over the tasks of a loss that uses ``grad`` inside."""
    import torch  # pyrefly: ignore
    from torch.func import functional_call, grad, vmap  # pyrefly: ignore

    network = torch_network(size)
    params = dict(network.named_parameters())
    optimizer = torch.optim.Adam(params.values(), BETA)

    def loss(params: Any, x: Any, y: Any) -> Any:
        return torch.mean((functional_call(network, params, (x,)) - y) ** 2)

    def task_loss(x: Any, y: Any, query_x: Any, query_y: Any) -> Any:
        theta = params
        for _ in range(inner_steps):
            slopes = grad(loss)(theta, x, y)
            theta = {name: p - ALPHA * slopes[name] for name, p in theta.items()}
        return loss(theta, query_x, query_y)

    def meta_loss(*batch: Any) -> Any:
        return vmap(task_loss)(*batch).mean()

    if compiled:
        meta_loss = torch.compile(meta_loss)

    def run(support: Any, query: Any) -> float:
        optimizer.zero_grad()
        value = meta_loss(*as_tensors(support), *as_tensors(query))
        value.backward()
        optimizer.step()
        return value.item()

    return run


#: By name: the module that a program needs, and the function that builds its step.
PROGRAMS: dict[str, tuple[str, Callable[..., Step]]] = {
    "metaheac_jax": ("jax", ours),
    "JAX by hand": ("jax", jax_by_hand),
    "torch.func": ("torch", torch_func),
    "torch.func, torch.compile": ("torch", functools.partial(torch_func, compiled=True)),
}


def work(pipe: Connection, build: Callable[..., Step], size: Size, arguments: Any) -> None:
    """The process of one program: sends its first losses, then the seconds of a step in each turn.

    At the end it sends how far its peak memory has risen since before the first step.
    """
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    support, query = tasks(size)
    step = build(size, **arguments)
    held = resident_peak()
    pipe.send([step(support, query) for _ in range(NUM_CHECKED)])
    while pipe.recv():
        seconds: list[float] = []
        while len(seconds) < MAX_TURN_STEPS and sum(seconds) < TURN_SECONDS:
            began = time.process_time()
            step(support, query)
            seconds.append(time.process_time() - began)
        pipe.send(statistics.median(seconds))
    pipe.send(resident_peak() - held)


def resident_peak() -> int:
    """Peak resident bytes of this process so far (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kilobytes] = [line.split()[1] for line in lines if line.startswith("VmHWM")]
    return 1024 * int(kilobytes)


class Result(NamedTuple):
    """A program's first losses, its seconds of a step in each turn, and its memory in bytes."""

    losses: list[float]
    seconds: list[float]
    memory: int


def compare(
    programs: dict[str, tuple[Callable[..., Step], Any]], size: Size, num_rounds: int
) -> dict[str, Result]:
    """Runs each program in a separate process, in turns; an extra first round is left out.

    Args:
      programs: by name, the function that builds a step, and its keyword arguments after the size.
      size: size of the network and the tasks.
      num_rounds: number of rounds without the first.
    """
    context = multiprocessing.get_context("spawn")
    pipes = {}
    for name, (build, arguments) in programs.items():
        pipes[name], other = context.Pipe()
        process = context.Process(target=work, args=(other, build, size, arguments), daemon=True)
        process.start()
        other.close()
    found = {name: Result(pipe.recv(), [], 0) for name, pipe in pipes.items()}
    for number in range(num_rounds + 1):
        for name, pipe in pipes.items():
            pipe.send(True)
            seconds = pipe.recv()
            if number:
                found[name].seconds.append(seconds)
    for name, pipe in pipes.items():
        pipe.send(False)
        found[name] = found[name]._replace(memory=pipe.recv())
    return found


def rows(found: dict[str, Result], first: str) -> list[str]:
    """One table line per program: milliseconds, ratio to the program ``first``, megabytes."""
    base = found[first].seconds
    lines = []
    for name, result in found.items():
        ratio = statistics.median(a / b for a, b in zip(result.seconds, base, strict=True))
        milliseconds, megabytes = 1000 * statistics.median(result.seconds), result.memory / 2**20
        lines.append(f"{name} | {milliseconds:.3g} | {ratio:.2f} | {megabytes:.0f} |")
    return lines


def main(options: Options) -> int:
    """Runs the command; returns its exit code."""

    for steps in options.inner_steps:
        check_whole("--inner-steps", steps, 1)
    check_whole("--rounds", options.rounds, 1)
    print("| network | inner steps | program | ms a step | ratio | MB |")
    print("|---|---:|---|---:|---:|---:|")
    known = {name: build for name, (module, build) in PROGRAMS.items() if find_spec(module)}
    for name in options.sizes:
        for steps in options.inner_steps:
            programs = {n: (build, {"inner_steps": steps}) for n, build in known.items()}
            found = compare(programs, SIZES[name], options.rounds)
            for rival, result in found.items():
                if not np.allclose(result.losses, found["metaheac_jax"].losses, rtol=1e-3):
                    raise ValueError(f"{rival} has other losses: {result.losses}")
            for line in rows(found, "metaheac_jax"):
                print(f"| {name} | {steps} | {line}", flush=True)
    print(f"\none core; left out: {', '.join(set(PROGRAMS) - set(known)) or 'none'}")
    return 0


if __name__ == "__main__":  # not in the processes of the programs, which import what they need
    from metaheac_jax.cli import terminal

    terminal.command(Options, main, prog="python -m experiments.throughput.rivals_meta")
