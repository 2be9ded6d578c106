"""Where results come from: the command, the commit, the versions and the processor."""

from __future__ import annotations

import functools
import os
import platform
import shlex
import subprocess
import sys
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import jax

#: Options about places of files or about resuming, which do not change what is computed.
PLACES = ("out", "resume", "cache_dir", "json")


@functools.cache
def provenance() -> dict[str, str | None]:
    """The commit, the versions and the processor.

    The commit ends with ``-dirty`` if files were changed since; it is None outside a git checkout.
    """
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        told = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        commit = None
    else:
        commit = told.stdout.strip()
    python = platform.python_version()
    return {"commit": commit, "device": device_name(), "python": python, "jax": jax.__version__}


def device_name() -> str:
    """The device's name; for a CPU, its model and number of cores."""
    device = jax.devices()[0]
    if device.platform != "cpu":
        return f"{device.device_kind} (1 of {len(jax.devices())})"
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{(models or [platform.machine()])[0]}, {os.cpu_count()} cores"


def command_of(options: Any) -> str:
    """The command line with these options, without defaults, `PLACES` and folders of paths."""
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
        elif value is not True:
            words.append(value.name if isinstance(value, Path) else str(value))
    return shlex.join(words)
