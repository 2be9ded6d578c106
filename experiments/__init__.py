"""The commands: each module is one, run as ``python -m experiments.NAME``."""

import os
import platform
import sys

#: Huge pages for what glibc's allocator hands out. XLA asks for a step's memory anew every time, a
#: hundred megabytes of it, and the kernel clears every page again; and rows of a table of gigabytes
#: are each on a page of their own. On 2 cores it is 8% of a meta-step at the official size, and a
#: third of one with 33 million rows.
_GLIBC = "glibc.malloc.hugetlb=1"
_UNSET = "GLIBC_TUNABLES" not in os.environ and platform.libc_ver()[0] == "glibc"

# glibc reads it when a process starts. So a command, ``python -m experiments.NAME``, starts again
# with it before it has done anything (while its module is being looked for, argv[0] is "-m").
if sys.argv[0] == "-m" and _UNSET:
    os.environ["GLIBC_TUNABLES"] = _GLIBC
    os.execv(sys.executable, sys.orig_argv)
