"""The files of an export, which score users without the part of the package that trains.

    scorer.json        campaigns, columns, how cells become table rows, versions and who reads
                       them, digests
    scorer.stablehlo   the program, serialised by `jax.export`
    weights.npz        its first argument, a dictionary of arrays that includes the table
    values.npz         per field, ``values/NAME``: the known raw values, ascending; and if the
                       model reads histories, ``summary/NAME``: how, see `data.history.Summary`

The program takes the weights and (P, S) int32 table rows of users, for any P, and returns (P, C)
scores.

Axes: P users, S slots of a user, C campaigns.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metaheac_jax.progress import Progress, silent
from metaheac_jax.sealed import read_sealed, read_undisturbed

FORMAT = "metaheac_jax scorer 6"
MANIFEST = "scorer.json"
PROGRAM, WEIGHTS, VALUES = "scorer.stablehlo", "weights.npz", "values.npz"
#: What to do about an export that cannot be read.
REMEDY = "export the campaign again with `metaheac export`"
_CONTENT = {
    "campaigns": [(int, str)],
    "schema": dict,
    "versions": {"jax": str},
    "files": (PROGRAM, WEIGHTS, VALUES),
}


@dataclass(frozen=True)
class Export:
    """The content of an export: of its manifest, whose digest is that of all, and of other files.

    It can be pickled and sent to workers.
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
        altered; the message names it.
    """
    folder = Path(folder)
    options: dict[str, Any] = {"content": _CONTENT, "progress": progress}

    def read() -> Export:
        manifest = read_sealed(folder, MANIFEST, format=FORMAT, remedy=REMEDY, **options)
        files = {name: (folder / name).read_bytes() for name in _CONTENT["files"]}
        return Export(manifest["digest"], manifest, files)

    return read_undisturbed(folder, MANIFEST, read)
