"""Checks of jax's backend, settings that suit it, and threads that keep it busy.

On a CPU, XLA hands reductions to the YNNPACK library. In some versions of jaxlib these reductions
are wrong or crash. A flag of XLA keeps reductions away from that library.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from importlib.metadata import entry_points, version
from importlib.util import find_spec
from typing import TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from metaheac_jax.errors import BackendError

A = TypeVar("A")
B = TypeVar("B")

_YNN = "--xla_cpu_experimental_ynn_fusion_type"
#: Keeps reductions on a CPU away from YNNPACK.
REDUCE_FLAG = f"{_YNN}=-reduce"
#: Compiles for a CPU at LLVM's optimisation level 1, which is shorter; higher levels do not make a
#: step faster. The flag would affect a GPU's programs as well.
LEVEL_FLAG = "--xla_backend_optimization_level=1"

#: The last version of jaxlib that is known to have the flag; an unknown flag aborts the process.
_LAST_WITH_FLAG = (0, 12)

#: Shapes a little larger than the smallest that show the faults `check_backend` looks for.
_PRODUCT, _ROWS = (2048, 4), (40_000, 3)
_RIGHT_VERSION = "0.10.1"  # of jaxlib; correct on a CPU without flags


def set_cpu_flags() -> None:
    """Adds `REDUCE_FLAG` and `LEVEL_FLAG` to XLA_FLAGS in the environment.

    XLA reads the variable when jax initialises its backend, so call this before making the first
    array. A flag that is already set keeps its value, and a variable that names a file of flags is
    not changed. If jax has a plugin for an accelerator, which reads the flags too, nothing is added
    unless JAX_PLATFORMS is cpu.
    """
    given = os.environ.get("XLA_FLAGS", "").strip()
    if _accelerator() or (given and not given.startswith("-")):
        return
    flags = [LEVEL_FLAG]
    if tuple(map(int, jaxlib.__version__.split(".")[:2])) <= _LAST_WITH_FLAG:
        flags.append(REDUCE_FLAG)
    missing = [flag for flag in flags if flag.partition("=")[0] not in given]
    os.environ["XLA_FLAGS"] = " ".join([given, *missing]).strip()


def check_backend() -> None:
    """Checks jax's default backend for known wrong results; the first call compiles.

    Raises:
      BackendError: a result is wrong. The message names the version, the fault and the remedy.
    """
    product, rows = _small_integers(_PRODUCT), _small_integers(_ROWS)
    total, norms = _reductions(product, rows)
    wrong = []
    # A constant right-hand side is read as if it were stored in memory as a full matrix.
    if not np.allclose(total, 3 * _PRODUCT[1] * product.sum(), rtol=1e-3):
        wrong.append("the sum of a matrix product")
    # https://github.com/jax-ml/jax/issues/39103: rows are mistaken for other rows.
    if not np.allclose(norms, (rows**2).sum(axis=1), rtol=1e-3):
        wrong.append("sums over many rows")
    if wrong:
        backend, version = jax.default_backend(), jaxlib.version.__version__
        remedy = f"install jax and jaxlib {_RIGHT_VERSION}"
        if backend == "cpu" and REDUCE_FLAG not in os.environ.get("XLA_FLAGS", ""):
            remedy = f"set XLA_FLAGS={REDUCE_FLAG} before the program starts, or {remedy}"
        what = " and ".join(wrong)
        raise BackendError(f"jaxlib {version} computes {what} wrongly on {backend}: {remedy}")


def environment() -> dict[str, str]:
    """The backend, and the versions of the package and of the libraries that compute."""
    libraries = ["metaheac-jax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy"]
    libraries += ["lightgbm"] if find_spec("lightgbm") else []
    return {"backend": jax.default_backend(), **{name: version(name) for name in libraries}}


def platform() -> str:
    """The platform that programs are made for: cpu, gpu or tpu."""
    return jax.default_backend()


def campaigns_at_once(most: int) -> int:
    """How many campaigns to vmap together: ``most`` on an accelerator, one on a CPU.

    On a CPU, separate products are faster than one batched product, since only they use the fast
    matrix kernels.
    """
    return 1 if platform() == "cpu" else most


@jax.jit
def _reductions(product: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The results that `check_backend` compares with numpy's: () and (rows,)."""
    total = jnp.sum(product @ jnp.full((_PRODUCT[1], _PRODUCT[1]), 3, product.dtype))
    matrix = jnp.eye(_ROWS[1], dtype=rows.dtype)
    return total, jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


def _small_integers(shape: tuple[int, int]) -> np.ndarray:
    """An array of the integers 1 to 7, which are exact in any precision that products use."""
    return (np.arange(shape[0] * shape[1]).reshape(shape) % 7 + 1).astype(np.float32)


def _accelerator() -> bool:
    """Whether jax would look for an accelerator; checks as jax does, but imports no plugin."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    modules = find_spec("jax_plugins") or find_spec("libtpu")
    return modules is not None or bool(entry_points(group="jax_plugins"))


def at_a_time() -> int:
    """How many jax programs should be in progress at a time.

    On a CPU, one per core, and at least two. On an accelerator, two: one computes while the inputs
    of the other are sent.
    """
    return max(2, num_cores()) if jax.default_backend() == "cpu" else 2


def drawing_threads() -> int:
    """How many threads should draw batches ahead of training.

    One on a CPU, where a step takes longer than a draw and uses the same cores. An accelerator
    would have to wait for a single thread.
    """
    return 1 if jax.default_backend() == "cpu" else min(4, num_cores())


def in_threads(function: Callable[[A], B], items: Iterable[A], *, num_threads: int) -> Generator[B]:
    """The results for all items in order, like `map`; each is computed in one of the threads.

    Up to 2 ``num_threads`` items are begun or queued ahead of the requested one. When the generator
    is closed, or the function raises, no more items are begun.
    """
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: A) -> B:
        # A thread does not inherit settings that its caller has made for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    ahead = deque[Future[B]]()
    with ThreadPoolExecutor(num_threads, "metaheac") as threads:
        try:
            for item in items:
                ahead.append(threads.submit(call, item))
                if len(ahead) > 2 * num_threads:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            for waiting in ahead:
                waiting.cancel()


def num_cores() -> int:
    """Number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1
