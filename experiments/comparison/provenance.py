"""Where results come from: the command, the state of the code, the versions and the time."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import jax
import jaxlib
import numpy as np

#: Options about places of files or about resuming, which do not change what is computed.
PLACES = ("out", "resume", "allow_change", "cache_dir")


@functools.cache
def provenance() -> dict[str, str | None]:
    """The commit, the versions and the device of this process.

    ``commit`` ends with ``-dirty`` if files were changed since, and is None outside a git checkout.
    """
    return {"commit": _commit(), "device": device_name(), **versions()}


def _commit() -> str | None:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        found = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def device_name() -> str:
    """The device's name; for a CPU, its model and number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind} (1 of {len(jax.devices())})"
    model = (
        kernel_entry("/proc/cpuinfo", "model name") or platform.processor() or platform.machine()
    )
    return f"{model}, {os.cpu_count()} cores"


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that determine the speed."""
    modules = {"jax": jax, "jaxlib": jaxlib, "numpy": np}
    return {"python": platform.python_version(), **{n: m.__version__ for n, m in modules.items()}}


def kernel_entry(path: str, name: str) -> str | None:
    """The value of a ``name: value`` line in one of the kernel's files."""
    if not Path(path).exists():
        return None
    for line in Path(path).read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return None


def command_of(options: Any) -> str:
    """The command line with these options, but without defaults, `PLACES` and paths' folders."""
    spec = getattr(sys.modules[type(options).__module__], "__spec__", None)
    module = (spec.name if spec else type(options).__module__).removesuffix(".__main__")
    words = ["python", "-m", module]
    for option in fields(options):
        value, default = getattr(options, option.name), option.default
        if option.default_factory is not MISSING:
            default = option.default_factory()
        if option.name in PLACES or value == default:
            continue
        words.append(f"--{option.name.replace('_', '-')}")
        if isinstance(value, tuple):
            words += map(str, value)
        elif isinstance(value, Path):
            words.append(value.name)  # its folder depends on the machine
        elif value is not True:
            words.append(str(value))
    return shlex.join(words)


def describe_origin(about: Mapping[str, Any], results: Iterable[Mapping[str, Any]]) -> str:
    """One line on the origin of results: command, data, tuning, versions, commit, and time.

    Args:
      about: has ``command``, ``data`` and ``tuned``; what is missing is left out.
      results: with their ``provenance`` and ``seconds`` by stage, if known.
    """
    results = list(results)
    parts = [f"`{about['command']}`"] if "command" in about else []
    parts += [about[key] for key in ("data", "tuned") if key in about]
    sources = [result["provenance"] for result in results if "provenance" in result]
    shown = {"python": "Python ", "jax": "jax ", "commit": "commit ", "device": ""}
    for key, prefix in shown.items():
        found = sorted({str(source.get(key) or "unknown") for source in sources})
        parts += [prefix + " and ".join(found)] if found else []
    seconds = sum(sum(result.get("seconds", {}).values()) for result in results)
    if seconds:
        parts.append(f"{_duration(seconds)} of wall time")
    return "; ".join(parts)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
