"""The configuration that work began with: recorded in a file, and compared on resuming."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Collection, Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

import jax

from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json

FORMAT = "metaheac_jax run 1"
#: What a user may allow to have changed when work is resumed. The results then differ from those of
#: uninterrupted work.
MayChange = Literal[
    "data", "code", "backend", "jax", "jaxlib", "flax", "optax", "numpy", "scipy", "lightgbm"
]


def environment(*more: Path) -> dict[str, str]:
    """The version and code of the package, the backend, and the versions of libraries.

    A digest stands for the code of the package and of the folders ``more``. LightGBM is optional.
    """
    digest = hashlib.sha256()
    for folder in (Path(__file__).parent, *more):
        for path in sorted(folder.rglob("*.py")):
            digest.update(str(path.relative_to(folder)).encode() + b"\0" + path.read_bytes())
    libraries = ["jax", "jaxlib", "flax", "optax", "numpy", "scipy"]
    libraries += ["lightgbm"] if find_spec("lightgbm") else []
    return {
        "code": f"{version('metaheac-jax')}, {digest.hexdigest()[:12]}",
        "backend": jax.default_backend(),
        **{name: version(name) for name in libraries},
    }


def keep_config(
    path: Path, config: Mapping[str, Any], *, allow_changes: Collection[str], restart: str
) -> None:
    """Records the configuration of some work, or compares it with the recorded one.

    Args:
      path: a JSON file.
      config: plain data by name.
      allow_changes: names of values that may have changed, see `MayChange`. The new value is
        recorded, and a warning is issued.
      restart: how to start afresh, for messages.

    Raises:
      InputError: an allowed name is unknown, the file is damaged, or the work began with another
        configuration; the message names the differences.
    """
    known = get_args(MayChange)
    unknown = sorted(set(allow_changes) - set(known))
    if unknown:
        raise InputError(
            f"{unknown[0]!r} cannot be allowed to change; only these can: {', '.join(known)}"
        )
    config = json.loads(json.dumps({"format": FORMAT, **config}))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, config)
        return
    try:
        before = dict(json.loads(path.read_text()))
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{path}: damaged; {restart}") from error
    changed = [name for name in sorted({*before, *config}) if before.get(name) != config.get(name)]
    refused = [name for name in changed if name not in allow_changes]
    if refused:
        allowed = all(name in known for name in refused)
        advice = f"allow it with --allow-change {' '.join(refused)}, " if allowed else ""
        raise InputError(
            f"{path}: started with another {_told(refused, before, config)}; use the same, {advice}"
            f"or {restart}"
        )
    if changed:
        warnings.warn(
            f"{path}: started with another {_told(changed, before, config)}, which was allowed",
            stacklevel=2,
        )
        write_json(path, config)


def _told(names: Collection[str], before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Names, each with both values if these are short."""
    told = []
    for name in names:
        values = [part.get(name, "none") for part in (before, now)]
        short = all(
            isinstance(value, str | int | float) and len(str(value)) < 40 for value in values
        )
        told.append(f"{name} ({values[0]}, now {values[1]})" if short else name)
    return ", ".join(told)
