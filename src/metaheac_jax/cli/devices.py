"""Options of commands that use several devices and several processes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jax.sharding import Mesh

from metaheac_jax.errors import InputError
from metaheac_jax.processes import join_job
from metaheac_jax.training.sharding import device_mesh, parse_mesh


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Options for several devices."""

    mesh: str | None = None
    """Use several devices, for example campaign=2,row=2: training then keeps two copies of the
    embedding table, each split by rows over two devices, and splits the campaigns of a step over
    all four. A step has 5 campaigns, so for more than 5 devices raise campaigns_per_step (--set of
    `metaheac fit`). Customising splits campaigns over all devices (solved-head and ensemble use one
    of each process), and expanding splits users; each device then has a whole table. For metaheac,
    mlp-pretraining, solved-head, ensemble, seed-aware and their variants."""
    coordinator: str | None = None
    """With --mesh, run as one of several processes: give HOST:PORT of the first one, or auto with
    Slurm, Open MPI, Kubernetes or Cloud TPUs. All processes must see the same files; the first one
    writes. If one ends, the others end within half a minute; start all again, fit with --resume."""
    process: str | None = None
    """With --coordinator HOST:PORT, the number of this process, from 0, and the number of
    processes: 0/2 and 1/2 for two processes."""


def join_others(options: DeviceOptions) -> None:
    """Joins the other processes, if there are any, before jax starts.

    Raises:
      InputError: the options do not go together, or the others cannot be joined.
    """
    if options.coordinator is None:
        if options.process is not None:
            raise InputError("--process: only with --coordinator")
        return
    if options.mesh is None:
        raise InputError("--coordinator: only with --mesh")
    if options.coordinator == "auto":
        if options.process is not None:
            raise InputError("--process: not with --coordinator auto, which finds it; omit it")
        join_job()
        return
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})", options.process or "")
    if found is None or int(found[1]) >= int(found[2]):
        raise InputError(f"--process: expected 0/2 or 1/2 of two, got {options.process!r}")
    join_job(options.coordinator, int(found[1]), int(found[2]))


def mesh_of(options: DeviceOptions) -> Mesh | None:
    """The requested mesh; None without --mesh.

    Raises:
      InputError: the option is not a mesh, or does not fit the number of devices.
    """
    return None if options.mesh is None else device_mesh(**parse_mesh(options.mesh))
