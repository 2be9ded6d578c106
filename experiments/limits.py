"""What a machine can do at most, what a step must do at least, and how much memory there is.

Axes: C campaigns, B examples of a support or query set, M user fields, N campaign fields,
k embedding width, n experts, m critics, h hidden width, R rows of the table.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from metaheac_jax.network import MetaHeac
from metaheac_jax.schema import TENCENT

#: Products that the arithmetic of one example takes, as multiples of its forward products.
Derivative = Literal["forward", "gradient", "first-order", "second-order"]
PRODUCTS: dict[Derivative, int] = {
    "forward": 1,
    "gradient": 3,
    "first-order": 6,
    "second-order": 12,
}

#: What `jax.default_matmul_precision` is set to, by backend and name; ``default`` leaves it alone,
#: which is float32 on a CPU, TF32 on NVIDIA cards since Ampere, and bf16 on a TPU.
PRECISIONS: dict[str, dict[str, str | None]] = {
    "cpu": {"default": None},
    "gpu": {"default": None, "float32": "highest", "bf16": "BF16_BF16_F32"},
    "tpu": {"default": None, "float32": "highest"},
}


def precisions() -> dict[str, str | None]:
    """Those of `PRECISIONS` that this machine's backend has."""
    return PRECISIONS.get(jax.default_backend(), PRECISIONS["cpu"])


class Limits(NamedTuple):
    """What one device was measured to do.

    Attributes:
      matmul: FLOP/s of a product of float32 matrices, by precision.
      copy: bytes/s, read and written, of an elementwise pass over an array larger than any cache.
    """

    matmul: dict[str, float]
    copy: float


def measure_limits() -> Limits:
    """Measures both: the best of the runs of half a second each."""
    side = 2048 if jax.default_backend() == "cpu" else 8192
    matmul = {}
    for name, precision in precisions().items():
        with jax.default_matmul_precision(precision):
            matrix = jnp.full((side, side), 0.5)
            product = jax.jit(jnp.matmul)
            matmul[name] = 2 * side**3 / _best(lambda p=product, a=matrix: p(a, a))
    array = jnp.ones(1 << 26)
    plus_one = jax.jit(lambda a: a + 1)
    return Limits(matmul, 2 * array.nbytes / _best(lambda: plus_one(array)))


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
    examples: int,
    campaigns: int,
    width: int,
    derivative: Derivative,
) -> int:
    """FLOPs of the matrix products that the model's formulas have for an example; 2 a multiply-add.

    Forward, a user costs n experts (M k -> h_1 -> ... -> h), two gates of width g over its mean
    field (k -> g, then g -> n and g -> m), the mixture of n experts and m critics (h -> m). A
    campaign adds the gates' product with its N fields, once for all its users. Pooling, activations
    and the loss are elementwise, about 3% of the whole, and not counted. The program does with
    less: fields with few values stay products (`fields.UserFields`), so it may pass this "limit".

    Each product y = x W, in which x depends on parameters too (the embeddings), is done

      once forward;
      3 times for a gradient: also dx = dy W' and dW = x' dy;
      6 times in first-order meta-learning: a gradient on the support, one on the query set;
      12 times in second-order: those 6, and (Hessian of the support loss) times (query gradient),
      a directional derivative of the three products of a gradient, each bilinear, so two products
      each. The forward pass and gradient that it differentiates are kept, not done again.

    Args:
      network: gives n, m, h and g.
      examples: users; in meta-learning C B, those of all the support sets, or of all query sets.
      campaigns: that the examples belong to.
      width: k.
      derivative: see `PRODUCTS`.
    """
    n, m, gate = network.experts, network.critics, network.gate_width
    user_fields, campaign_fields = len(TENCENT.user), len(TENCENT.campaign)
    layers = (user_fields * width, *network.widths)
    experts = n * sum(a * b for a, b in pairwise(layers))
    gates = 2 * width * gate + gate * (n + m)
    hidden = network.widths[-1]
    user = experts + gates + n * hidden + hidden * m
    campaign = 2 * campaign_fields * width * gate
    return 2 * PRODUCTS[derivative] * (examples * user + campaigns * campaign)


def theory_bytes(*, table_rows: int, width: int, parameters: int) -> int:
    """Bytes that an Adam step cannot but move: values and both moments, float32, in and out.

    Activations may stay in a cache, and ids are few, so neither is counted.

    Args:
      table_rows: that the step moves: those it touches, or all R of a whole-table step.
      width: k.
      parameters: of the network.
    """
    return 3 * 2 * 4 * (table_rows * width + parameters)


def device_name() -> str:
    """The device's name; of a CPU, its model and number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind} (1 of {len(jax.devices())})"
    model = _entry("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    return f"{model}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide the speed."""
    import jaxlib
    import numpy

    modules = {"jax": jax, "jaxlib": jaxlib, "numpy": numpy}
    return {"python": platform.python_version(), **{n: m.__version__ for n, m in modules.items()}}


def free_memory() -> int | None:
    """Bytes that the device could still give; None where the system does not tell."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    return _kilobytes("/proc/meminfo", "MemAvailable")


def forget_high_water() -> None:
    """Makes `high_water` start afresh from what the process holds now (Linux)."""
    reset = Path("/proc/self/clear_refs")
    if reset.exists():
        reset.write_text("5")


def high_water() -> int | None:
    """The most resident bytes of this process since it was last forgotten; None off Linux."""
    return _kilobytes("/proc/self/status", "VmHWM")


def _kilobytes(path: str, name: str) -> int | None:
    entry = _entry(path, name)
    return None if entry is None else 1024 * int(entry.split()[0])


def _entry(path: str, name: str) -> str | None:
    """The value of a ``name: value`` line in one of the kernel's files."""
    if not Path(path).exists():
        return None
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None
