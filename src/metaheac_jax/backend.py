"""Programs that every jaxlib computes correctly, checks of the backend, and threads.

On a CPU, XLA hands reductions, and products fused with them, to the YNNPACK library, and in some
versions of jaxlib the results are wrong. Options of the compiler, which `jit` passes, leave it
single products, which are right and fast.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Generic, TypeVar

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.extend.core import get_opaque_trace_state

from metaheac_jax.errors import BackendError

T = TypeVar("T")
Item = TypeVar("Item")

#: What programs for a CPU are compiled with: YNNPACK gets single products, and LLVM optimises at
#: level 1, which takes less time; higher levels do not make a step faster.
CPU_OPTIONS: dict[str, str | int] = {
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
    "xla_backend_optimization_level": 1,
}


@dataclass(frozen=True)
class Profile:
    """How programs are made for a kind of device; `experiments/throughput` measures what it gains.

    The defaults are those of a GPU.

    Attributes:
      chunk: users that are scored at once. A thousand fit into the caches of a CPU, and 24 thousand
        keep what they need on the chip of an accelerator.
      keeps_top: whether devices keep the best users of a pool, which the host fetches once.
      vmaps_campaigns: whether the campaigns of a meta-step are one batched product. On a CPU only
        separate products use the fast kernels.
      reads_whole_rows: whether a table row is read and written with its moments at once. A CPU
        would copy what it then splits off.
      scatters_numbers: whether single numbers are scattered; an accelerator does so slowly, and
        compares instead.
      gathers_by_slot: whether embeddings are gathered slot by slot, in the order in which a TPU
        stores them.
      in_order: whether a step is waited for if there are several processes. On CPUs, messages of
        two concurrent programs may arrive in another order.
      num_concurrent_programs: jax programs in progress: on a CPU one per core, at least two; on an
        accelerator one computes while the inputs of the other are sent.
      num_drawing_threads: threads that draw batches ahead of training. On a CPU a step takes longer
        than a draw, and uses the same cores.
    """

    chunk: int = 24 << 10
    keeps_top: bool = True
    vmaps_campaigns: bool = True
    reads_whole_rows: bool = True
    scatters_numbers: bool = False
    gathers_by_slot: bool = False
    in_order: bool = False
    num_concurrent_programs: int = 2
    num_drawing_threads: int = 1


def profile() -> Profile:
    """The profile of jax's default backend."""
    platform, cores = jax.default_backend(), num_cores()
    if platform != "cpu":
        return Profile(gathers_by_slot=platform == "tpu", num_drawing_threads=min(4, cores))
    return Profile(
        chunk=1024,
        keeps_top=False,
        vmaps_campaigns=False,
        reads_whole_rows=False,
        scatters_numbers=True,
        in_order=True,
        num_concurrent_programs=max(2, cores),
    )


def num_cores() -> int:
    """Number of cores that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


#: Shapes a little larger than the smallest that show the faults `check_backend` looks for.
_PRODUCT, _ROWS, _BATCHES = (2048, 4), (40_000, 3), (8, 64, 64)
_RIGHT_VERSION = "0.10.1"  # of jaxlib; correct on a CPU without options
_OUTSIDE = get_opaque_trace_state()  # of jax's transformations


class jit(Generic[T]):
    """Compiles a function as `jax.jit` does, on a CPU with `CPU_OPTIONS`.

    So its results are right without flags of XLA. A transformation of jax around it takes no
    options: there it is ``plain``, and `check_backend` tells the caller whether programs without
    options are right.

    Attributes:
      plain: the same without the options, such as to compile for other devices.
    """

    def __init__(self, function: Callable[..., T], **given: Any) -> None:
        """Takes a function, and what `jax.jit` takes by name."""
        self.plain = jax.jit(function, **given)
        self._given = function, given
        functools.update_wrapper(self, function)

    @functools.cached_property
    def best(self) -> jax.stages.Wrapped:
        """The same with the options that suit jax's default backend."""
        function, given = self._given
        if jax.default_backend() != "cpu":
            return self.plain
        return jax.jit(function, compiler_options=_known_options(), **given)

    def __call__(self, *args: Any, **kwargs: Any) -> T:
        """Calls the compiled function."""
        outside = get_opaque_trace_state() == _OUTSIDE
        return (self.best if outside else self.plain)(*args, **kwargs)


@functools.cache
def _known_options() -> dict[str, str | int]:
    """The options of `CPU_OPTIONS` that this version of jaxlib has."""
    known = {}
    for name, value in CPU_OPTIONS.items():
        with suppress(jax.errors.JaxRuntimeError):
            jax.jit(jnp.negative, compiler_options={name: value})(0)
            known[name] = value
    return known


def check_backend(jit: Callable[[Callable[..., Any]], Callable[..., Any]] = jit) -> None:
    """Checks jax's default backend for known wrong results; the first call compiles.

    Args:
      jit: compiles the programs that are checked. Give `jax.jit` if your own program contains one
        of this package, such as a meta-step.

    Raises:
      BackendError: a result is wrong. The message names the version, the fault and the remedy.
    """
    product, rows, batches = map(_small_integers, (_PRODUCT, _ROWS, _BATCHES))
    total, norms, sums = jit(_reductions)(product, rows, batches)
    wrong = []
    # A constant right-hand side is read as if it were stored in memory as a full matrix.
    if not np.allclose(total, 3 * _PRODUCT[1] * product.sum(), rtol=1e-3):
        wrong.append("the sum of a matrix product")
    # https://github.com/jax-ml/jax/issues/39103: rows are mistaken for other rows.
    if not np.allclose(norms, (rows**2).sum(axis=1), rtol=1e-3):
        wrong.append("sums over many rows")
    if not np.allclose(sums, 3 * batches.sum(axis=-1) ** 2, rtol=1e-3):
        wrong.append("sums over batches of matrix products")
    if wrong:
        backend, version = jax.default_backend(), jaxlib.version.__version__
        remedy = f"install jax and jaxlib {_RIGHT_VERSION}"
        if backend == "cpu":
            remedy = f"give jax.jit the compiler_options {_known_options()}, or {remedy}"
        what = " and ".join(wrong)
        raise BackendError(f"jaxlib {version} computes {what} wrongly on {backend}: {remedy}")


def environment() -> dict[str, str]:
    """The backend, and the versions of the package and of the libraries that compute."""
    libraries = ["metaheac-jax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy"]
    libraries += ["lightgbm"] if find_spec("lightgbm") else []
    return {"backend": jax.default_backend(), **{name: version(name) for name in libraries}}


def processor() -> str:
    """What computes: the kind of a device or, of a CPU, its model and the sizes of its caches.

    Libraries divide a product by these sizes, so its last bits depend on them.
    """
    if jax.default_backend() != "cpu":
        return jax.devices()[0].device_kind
    model, caches = platform.processor() or platform.machine(), []
    with suppress(OSError):  # these files are Linux's
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
        sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
        caches = [path.read_text().strip() for path in sorted(sizes)]
    return " ".join([model, *caches])


def _reductions(
    product: jax.Array, rows: jax.Array, batches: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The results that `check_backend` compares with numpy's: (), (rows,) and (batches, rows)."""
    total = jnp.sum(product @ jnp.full((_PRODUCT[1], _PRODUCT[1]), 3, product.dtype))
    matrix = jnp.eye(_ROWS[1], dtype=rows.dtype)
    norms = jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)
    return total, norms, jnp.sum((batches @ jnp.full_like(batches, 3)) * batches, axis=-1)


def _small_integers(shape: tuple[int, ...]) -> np.ndarray:
    """An array of the integers 1 to 7, which are exact in any precision that products use."""
    return (np.arange(np.prod(shape)).reshape(shape) % 7 + 1).astype(np.float32)


def in_threads(
    function: Callable[[Item], T], items: Iterable[Item], *, num_threads: int
) -> Generator[T]:
    """The results for all items in order, like `map`; each is computed in one of the threads.

    Up to 2 ``num_threads`` items are begun or queued ahead of the requested one. When the generator
    is closed, or the function raises, no more items are begun.
    """
    names = "jax_enable_x64", "jax_default_matmul_precision", "jax_default_device"
    x64, precision, device = (getattr(jax.config, name) for name in names)

    def call(item: Item) -> T:
        # A thread does not inherit settings that its caller has made for a ``with`` block.
        with (
            jax.enable_x64(x64),
            jax.default_matmul_precision(precision),
            jax.default_device(device),
        ):
            return function(item)

    ahead = deque[Future[T]]()
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
