"""The commands: each module is one, run as ``python -m experiments.NAME``."""

import os
import platform
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec

#: Huge pages for what glibc's allocator hands out. XLA asks for a step's memory anew every time, a
#: hundred megabytes of it, and the kernel clears every page again; and rows of a table of gigabytes
#: are each on a page of their own. On 2 cores it is 8% of a meta-step at the official size, and a
#: third of one with 33 million rows.
_GLIBC = "glibc.malloc.hugetlb=1"
_UNSET = "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc"

#: LLVM's first level for a CPU's programs: a step compiles in two thirds of the time, and takes no
#: longer. It would reach a GPU's programs as well, so not where jax has a plugin for one.
_XLA = "--xla_backend_optimization_level"


def _accelerator() -> bool:
    """Whether jax would find a plugin for one; in the ways that jax looks, without importing it."""
    modules = find_spec("jax_plugins") or find_spec("libtpu")
    return modules is not None or bool(entry_points(group="jax_plugins"))


# While the module of a command, ``python -m experiments.NAME``, is being looked for, argv[0] is
# "-m", and jax is not imported yet.
if sys.argv[0] == "-m":
    _given = os.environ.get("XLA_FLAGS", "")
    if _XLA not in _given and not _accelerator():
        os.environ["XLA_FLAGS"] = f"{_given} {_XLA}=1".strip()
    # glibc reads it when a process starts, so the command starts again.
    if _UNSET:
        os.environ["GLIBC_TUNABLES"] = _GLIBC
        os.execv(sys.executable, sys.orig_argv)
