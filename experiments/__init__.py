"""The commands: each module is one, run as ``python -m experiments.NAME``."""

import os
import platform
import sys

#: What glibc's allocator should do: keep large blocks rather than give them back, and take huge
#: pages. XLA allocates a step's memory anew every time, a hundred megabytes of it, and the kernel
#: would clear every page again: 5 to 17% of a meta-step at the official size on 2 cores.
_GLIBC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=536870912"
_GLIBC += ":glibc.malloc.trim_threshold=8589934592"

_UNSET = "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc"

# glibc reads them when a process starts. So a command, ``python -m experiments.NAME``, starts again
# with them before it has done anything (while its module is being looked for, argv[0] is "-m").
if sys.argv[0] == "-m" and _UNSET:
    os.environ["GLIBC_TUNABLES"] = _GLIBC
    os.execv(sys.executable, sys.orig_argv)
