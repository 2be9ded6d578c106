"""Checks of jax's backend, and settings that suit it.

On a CPU, XLA hands reductions to the YNNPACK library. In some versions of jaxlib these reductions
are wrong or crash. A flag of XLA keeps reductions away from that library.
"""

from __future__ import annotations

import os
from importlib.metadata import entry_points
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np

from metaheac_jax.errors import BackendError

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


def campaigns_at_once(most: int) -> int:
    """How many campaigns to vmap together: ``most`` on an accelerator, one on a CPU.

    On a CPU, separate products are faster than one batched product, since only they use the fast
    matrix kernels.
    """
    return 1 if jax.default_backend() == "cpu" else most


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
