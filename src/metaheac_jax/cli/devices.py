"""Options of `metaheac fit` for several processes."""

from __future__ import annotations

import re

from metaheac_jax.errors import InputError
from metaheac_jax.processes import join_job


def join_others(mesh: str | None, coordinator: str | None, process: str | None) -> None:
    """Joins the other processes, if there are any, before jax starts.

    Args:
      mesh: such as campaign=2,row=2.
      coordinator: HOST:PORT of the first process, or auto on a cluster.
      process: with HOST:PORT, number of this process and of all, such as 0/2.

    Raises:
      InputError: the options do not go together, or the others cannot be joined.
    """
    if coordinator is None:
        if process is not None:
            raise InputError("--process: only with --coordinator")
        return
    if mesh is None:
        raise InputError("--coordinator: only with --mesh")
    if coordinator == "auto":
        if process is not None:
            raise InputError("--process: not with --coordinator auto, which finds it; omit it")
        join_job()
        return
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", process or "")
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(f"--process: expected 0/2 or 1/2 of two, got {process!r}")
    join_job(coordinator, int(found[1]), int(found[2]))
