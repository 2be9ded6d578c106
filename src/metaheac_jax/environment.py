"""The configuration that work began with: recorded in a file, and compared on resuming."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax

from metaheac_jax.errors import InputError
from metaheac_jax.sealed import read_manifest, write_manifest

FORMAT = "metaheac_jax run 1"


def environment() -> dict[str, str]:
    """The backend, and the versions of the package and of the libraries that compute."""
    libraries = ["metaheac-jax", "jax", "jaxlib", "flax", "optax", "numpy", "scipy"]
    libraries += ["lightgbm"] if find_spec("lightgbm") else []
    return {"backend": jax.default_backend(), **{name: version(name) for name in libraries}}


def keep_config(path: Path, config: Mapping[str, Any], *, restart: str) -> None:
    """Records the configuration of some work, or compares it with the recorded one.

    Args:
      path: a JSON file.
      config: plain data by name.
      restart: how to start afresh, for messages.

    Raises:
      InputError: the file is damaged, or the work began with another configuration; the message
        names the differences.
    """
    config = json.loads(json.dumps({"format": FORMAT, **config}))
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(path, config)
        return
    before = read_manifest(path, format=FORMAT, remedy=restart)
    names = sorted({*before, *config} - {"digest"})
    told = [_told(n, before.get(n), config.get(n)) for n in names if before.get(n) != config.get(n)]
    if told:
        changes = ", ".join(told)
        raise InputError(f"{path}: started with another {changes}; use the same, or {restart}")


def _told(name: str, before: Any, now: Any) -> str:
    """A name, with both values if these are short."""
    short = all(isinstance(value, str | int | float | None) for value in (before, now))
    told = f"{name} ({before}, now {now})"
    return told if short and len(told) < 100 else name
