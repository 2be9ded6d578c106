"""The options of commands that use several devices, and several processes."""

from __future__ import annotations

import re
from dataclasses import dataclass

from jax.sharding import Mesh

from metaheac_jax.errors import InputError
from metaheac_jax.processes import join_job
from metaheac_jax.training.sharding import device_mesh, parse_mesh


@dataclass(frozen=True, kw_only=True)
class DeviceOptions:
    """Several devices."""

    mesh: str | None = None
    """Use several devices, as campaign=4,row=2. Training keeps four copies of the embedding table,
    each split by rows over two devices, and splits campaigns over all eight. Customising splits
    campaigns over all, and expanding users; each device then has a whole table. For metaheac,
    mlp-pretraining, solved-head, ensemble, seed-aware and their variants."""
    coordinator: str | None = None
    """With --mesh, be one of several processes: HOST:PORT of the first, or auto with Slurm, Open
    MPI, Kubernetes or Cloud TPUs. All must see the same files; the first one writes. If one ends,
    so do the others within half a minute; start all again, fit with --resume."""
    process: str | None = None
    """With --coordinator HOST:PORT, which process this is, and of how many: 0/2, 1/2."""


def join_others(options: DeviceOptions) -> None:
    """Joins the other processes, if there are any; before jax starts.

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
    """The mesh that was asked for.

    Raises:
      InputError: there are other devices than it takes.
    """
    return None if options.mesh is None else device_mesh(**parse_mesh(options.mesh))
