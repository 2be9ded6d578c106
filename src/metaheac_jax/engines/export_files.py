"""The files of an export, which score users without the part of the package that trains.

    scorer.json        campaigns, columns, how cells become table rows, versions, digests
    scorer.stablehlo   the program, serialised by `jax.export`
    weights.npz        its first argument, a dictionary of arrays that includes the table
    values.npz         per field, ``values/NAME``: the known raw values, ascending

The program takes the weights and (P, S) int32 table rows of users, for any P, and returns (P, C)
scores. Writing and reading need flatbuffers: ``pip install "metaheac-jax[export]"``.

Axes: P users, S slots of a user, C campaigns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress, silent
from metaheac_jax.sealed import read_sealed

FORMAT = "metaheac_jax scorer 4"
MANIFEST = "scorer.json"
PROGRAM, WEIGHTS, VALUES = "scorer.stablehlo", "weights.npz", "values.npz"
#: What to do about an export that cannot be read.
REMEDY = "export the campaign again with `metaheac export`"


@dataclass(frozen=True)
class Export:
    """The content of an export, which can be pickled and sent to workers.

    Attributes:
      digest: digest of the manifest, hence of all files.
      manifest: the content of ``scorer.json``.
      files: the content of the other files, by name.
    """

    digest: str
    manifest: Mapping[str, Any] = field(compare=False, repr=False)
    files: Mapping[str, bytes] = field(compare=False, repr=False)


def read_export(folder: Path | str, *, progress: Progress = silent) -> Export:
    """Reads an export; verifies every file by its digest.

    Args:
      folder: from `export_scorer` or `metaheac export`.
      progress: receives the number of bytes verified.

    Raises:
      InputError: there is no export, it has another format, or a file is missing, truncated or
        altered; the message names it. Or flatbuffers is not installed.
    """
    check_flatbuffers()
    folder = Path(folder)
    manifest = read_sealed(folder, MANIFEST, format=FORMAT, remedy=REMEDY, progress=progress)
    files = {name: (folder / name).read_bytes() for name in manifest["files"]}
    return Export(manifest["digest"], manifest, files)


def check_flatbuffers() -> None:
    """Refuses to continue without flatbuffers.

    Raises:
      InputError: flatbuffers is not installed.
    """
    if find_spec("flatbuffers") is None:
        raise InputError(
            "an export needs flatbuffers; install it with pip install 'metaheac-jax[export]'"
        )
