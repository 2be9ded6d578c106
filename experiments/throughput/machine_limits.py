"""The peak rates of a machine, the least work of a step, and the available memory.

Axes: C campaigns, B examples of a support or query set, M user fields, N campaign fields,
k embedding width, n experts, m critics, h hidden width, R rows of the table.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from experiments.comparison.provenance import kernel_entry
from metaheac_jax.networks.metaheac import MetaHeac
from metaheac_jax.schema import TENCENT

#: The number of matrix products per example, as a multiple of its forward products.
Derivative = Literal["forward", "gradient", "first-order", "second-order"]
PRODUCTS: dict[Derivative, int] = {
    "forward": 1,
    "gradient": 3,
    "first-order": 6,
    "second-order": 12,
}

#: Values of `jax.default_matmul_precision` by backend and name. ``default`` leaves it unset, so
#: products are float32 on a CPU, TF32 on NVIDIA cards since Ampere, and bf16 on a TPU.
PRECISIONS: dict[str, dict[str, str | None]] = {
    "cpu": {"default": None},
    "gpu": {"default": None, "float32": "highest", "bf16": "BF16_BF16_F32"},
    "tpu": {"default": None, "float32": "highest"},
}


def precisions() -> dict[str, str | None]:
    """The `PRECISIONS` of this machine's backend."""
    return PRECISIONS.get(jax.default_backend(), PRECISIONS["cpu"])


class Limits(NamedTuple):
    """Measured limits of one device.

    Attributes:
      matmul: FLOP/s of a product of float32 matrices, by precision.
      copy: bytes/s, read and written, of an elementwise pass over an array larger than any cache.
      gather: bytes/s, read and written, of gathering random rows from a table as long as that of
        the Tencent data.
    """

    matmul: dict[str, float]
    copy: float
    gather: float


def measure_limits() -> Limits:
    """Measures all limits; each is the best of the runs in half a second."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matmul = {}
    for name, precision in precisions().items():
        with jax.default_matmul_precision(precision):
            matrix = jnp.full((side, side), 0.5)
            product = jax.jit(jnp.matmul)
            matmul[name] = 2 * side**3 / _best(lambda p=product, a=matrix: p(a, a))
    array = jnp.ones(1 << 26)
    plus_one = jax.jit(lambda a: a + 1, donate_argnums=0)  # allocation costs more than a copy

    def in_place() -> jax.Array:
        nonlocal array
        array = plus_one(array)
        return array

    copy = 2 * array.nbytes / _best(in_place)
    table, take = jnp.ones((334_494, 64)), jax.jit(lambda table, rows: table[rows])
    rows = jax.random.randint(jax.random.key(0), (8, 1 << 16), 0, len(table))
    some = cycle(list(rows))  # different rows in each run, which no cache holds
    gather = 2 * rows[0].size * table[0].nbytes / _best(lambda: take(table, next(some)))
    return Limits(matmul, copy, gather)


def _best(run: Callable[[], Any]) -> float:
    run().block_until_ready()
    seconds, until = [], time.perf_counter() + 0.5
    while not seconds or time.perf_counter() < until:
        began = time.perf_counter()
        run().block_until_ready()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def theory_flops(
    network: MetaHeac,
    *,
    num_examples: int,
    num_campaigns: int,
    width: int,
    derivative: Derivative,
) -> int:
    """FLOPs of the matrix products in the model's formulas; a multiply-add counts as 2.

    The forward pass of a user has n experts (M k -> h_1 -> ... -> h), two gates of width g on the
    mean of the user's fields (k -> g, then g -> n and g -> m), and the mixture of n experts and m
    critics (h -> m). A campaign adds the gates' product with its N fields, once for all its users.
    Pooling, activations and the loss are elementwise and are not counted. The program executes
    fewer FLOPs, since fields with few values stay products (`table.pooling.UserFields`); see
    `arithmetic`.

    Each product y = x W, where x depends on parameters too (the embeddings), is computed

      once forward;
      3 times for a gradient: also dx = dy W' and dW = x' dy;
      6 times in first-order meta-learning: a gradient on the support and one on the query set;
      12 times in second-order meta-learning: these 6, and (Hessian of the support loss) times
      (query gradient), a directional derivative of the three products of a gradient. Each is
      bilinear, so its derivative has two products. The differentiated forward pass and gradient
      are stored, not recomputed.

    Args:
      network: defines n, m, h and g.
      num_examples: users; in meta-learning C B, the users of all support sets or of all query sets.
      num_campaigns: campaigns of the examples.
      width: k.
      derivative: see `PRODUCTS`.
    """
    n, m, gate = network.num_experts, network.num_critics, network.gate_width
    layers = (len(TENCENT.user) * width, *network.widths)
    experts = n * sum(a * b for a, b in pairwise(layers))
    gates = 2 * width * gate + gate * (n + m)
    hidden = network.widths[-1]
    user = experts + gates + n * hidden + hidden * m
    campaign = 2 * len(TENCENT.campaign) * width * gate
    return 2 * PRODUCTS[derivative] * (num_examples * user + num_campaigns * campaign)


def theory_bytes(*, num_rows: int, width: int, num_parameters: int) -> int:
    """Bytes that an Adam step must move: values and both moments, float32, read and written.

    Activations may stay in a cache, and ids are few, so neither is counted.

    Args:
      num_rows: table rows that the step moves: those it touches, or all R in a whole-table step.
      width: k.
      num_parameters: number of parameters of the network.
    """
    return 3 * 2 * 4 * (num_rows * width + num_parameters)


def environment() -> dict[str, str]:
    """Other known settings that affect the speed: flags, driver, CUDA, clocks."""
    known = {name: os.environ.get(name) for name in ("XLA_FLAGS", "GLIBC_TUNABLES")}
    if jax.default_backend() == "cpu":
        clock = kernel_entry("/proc/cpuinfo", "cpu MHz")
        known["clock"] = f"{clock} MHz" if clock else None
    else:
        known["runtime"] = " ".join(jax.devices()[0].client.platform_version.split())
        query = "driver_version,clocks.sm,clocks.max.sm,clocks.mem,power.limit"
        known[query] = _output("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
    return {name: value for name, value in known.items() if value}


def _output(*command: str) -> str | None:
    """The standard output of a command; None if it fails."""
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def free_memory() -> int | None:
    """Free bytes of the device; None if the system does not report them."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return _kilobytes("/proc/meminfo", "MemAvailable")


def forget_high_water() -> None:
    """Resets `high_water` to the memory that the process holds now (Linux)."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def high_water() -> int | None:
    """Peak resident bytes of this process since the last reset; None if not on Linux."""
    return _kilobytes("/proc/self/status", "VmHWM")


def _kilobytes(path: str, name: str) -> int | None:
    entry = kernel_entry(path, name)
    return None if entry is None else 1024 * int(entry.split()[0])
