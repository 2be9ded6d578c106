"""The backend of jax: whether its numbers can be trusted, and what suits it.

XLA hands reductions on a CPU to a library, YNNPACK. There are versions of jaxlib whose reductions
are wrong, or crash, and a flag of XLA that keeps them from that library.
"""

from __future__ import annotations

import mmap
import os
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from metaheac_jax.errors import BackendError

_YNN = "--xla_cpu_experimental_ynn_fusion_type"
#: Keeps a CPU's reductions from YNNPACK.
REDUCE_FLAG = f"{_YNN}=-reduce"
#: LLVM's first level for a CPU's programs, for a shorter compilation: higher levels do not make a
#: step faster. It would reach a GPU's programs as well.
LEVEL_FLAG = "--xla_backend_optimization_level=1"

#: The least that each fault of `check_backend` needs, and a little more.
_PRODUCT, _ROWS = (2048, 4), (40_000, 3)
_RIGHT_VERSION = "0.10.1"  # of jaxlib, on a CPU without flags


def set_cpu_flags() -> None:
    """Adds `REDUCE_FLAG` and `LEVEL_FLAG` to the environment's XLA_FLAGS.

    XLA reads them when jax initialises its backend, so this comes before the first array. A flag
    that is there already, with whatever value, stays; so does a name of a file of flags. A flag
    that jaxlib does not know would abort the process, and is left out. Nothing is added where jax
    has a plugin for an accelerator, unless JAX_PLATFORMS is cpu: a plugin reads the flags as well.
    """
    given = os.environ.get("XLA_FLAGS", "").strip()
    if _accelerator() or (given and not given.startswith("-")):
        return
    for flag in (LEVEL_FLAG, REDUCE_FLAG):
        name = flag.partition("=")[0]
        if name not in given and _knows(name):
            given = f"{given} {flag}".strip()
    if given:
        os.environ["XLA_FLAGS"] = given


def check_backend() -> None:
    """Computes on jax's default backend what broken versions get wrong; takes milliseconds.

    Raises:
      BackendError: a result is wrong. Its line names the version, the fault and what to do.
    """
    product, rows = _small_integers(_PRODUCT), _small_integers(_ROWS)
    total, norms = _reductions(product, rows)
    wrong = []
    # A right-hand side that is one number everywhere: read as if it lay in memory as a matrix.
    if not np.allclose(total, 3 * _PRODUCT[1] * product.sum(), rtol=1e-3):
        wrong.append("the sum of a matrix product")
    # https://github.com/jax-ml/jax/issues/39103: rows are taken for others.
    if not np.allclose(norms, (rows**2).sum(axis=1), rtol=1e-3):
        wrong.append("sums over many rows")
    if wrong:
        backend, version = jax.default_backend(), jaxlib.version.__version__
        remedy = f"install jax and jaxlib {_RIGHT_VERSION}"
        if backend == "cpu" and REDUCE_FLAG not in os.environ.get("XLA_FLAGS", ""):
            remedy = f"set XLA_FLAGS={REDUCE_FLAG} before the program starts, or {remedy}"
        what = " and ".join(wrong)
        raise BackendError(f"jaxlib {version} computes {what} wrongly on {backend}: {remedy}")


def campaigns_at_once(most: int) -> int:
    """How many campaigns to vmap together: all on an accelerator, one on a CPU.

    On a CPU the same products in turn are faster than a batched one, since only they use the fast
    matrix kernels.
    """
    return 1 if jax.default_backend() == "cpu" else most


def has_room(num_bytes: int) -> bool:
    """Whether an array takes at most half of a device's memory; on a CPU always."""
    memory = jax.local_devices()[0].memory_stats()
    return memory is None or 2 * num_bytes <= memory["bytes_limit"]


@jax.jit
def _reductions(product: jax.Array, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
    """What `check_backend` compares with numpy: () and (rows,)."""
    total = jnp.sum(product @ jnp.full((_PRODUCT[1], _PRODUCT[1]), 3, product.dtype))
    matrix = jnp.eye(_ROWS[1], dtype=rows.dtype)
    return total, jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(rows)


def _small_integers(shape: tuple[int, int]) -> np.ndarray:
    """An array of 1 to 7, which are exact in whatever precision products have."""
    return (np.arange(shape[0] * shape[1]).reshape(shape) % 7 + 1).astype(np.float32)


def _accelerator() -> bool:
    """Whether jax would look for one; in the ways that it does, without importing plugins."""
    if os.environ.get("JAX_PLATFORMS") == "cpu":
        return False
    modules = find_spec("jax_plugins") or find_spec("libtpu")
    return modules is not None or bool(entry_points(group="jax_plugins"))


def _knows(flag: str) -> bool:
    """Whether jaxlib's library has the flag; its name is found in the library's file."""
    for library in Path(jaxlib.__file__).parent.glob("libjax_common*"):
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as m:
            if m.find(flag.removeprefix("--").encode()) >= 0:
                return True
    return False
