"""The folder of a run, ``OUT/seed-R``: what a run that is resumed finds there.

It holds ``config.json``, ``methods/NAME.json`` (one campaign's figures per entry),
``checkpoints/NAME/`` and ``log.jsonl``.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metaheac_jax.errors import InputError
from metaheac_jax.files import write_json
from metaheac_jax.settings import Settings


def open_run(directory: Path, config: dict[str, Any], *, resume: bool) -> None:
    """Makes a run's folder, or checks that the one to be resumed has the same configuration.

    A new run replaces what an older run left there, and nothing else.

    Raises:
      InputError: there is nothing to resume, it was another run, or the folder is not a run's.
    """
    path = directory / "config.json"
    config = json.loads(json.dumps(config))
    if resume:
        _check_same(path, config)
    else:
        for name in ("methods", "checkpoints"):
            if (directory / name).exists() and not path.is_file():
                raise InputError(
                    f"{directory}: has {name} but no config.json, so it is not a run's folder; "
                    "choose another --out"
                )
        directory.mkdir(parents=True, exist_ok=True)
        clear_run(directory)
        write_json(path, config)
    (directory / "methods").mkdir(exist_ok=True)


def _check_same(path: Path, config: dict[str, Any]) -> None:
    if not path.is_file():
        raise InputError(f"{path.parent}: no run to resume; omit --resume to start one")
    try:
        before = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: not a run's configuration; start afresh") from error
    changed = sorted(k for k in {*before, *config} if before.get(k) != config.get(k))
    if changed:
        raise InputError(
            f"{path}: the run had another {', '.join(changed)}; "
            "resume with the same options, or start afresh without --resume"
        )


def clear_run(directory: Path) -> None:
    """Removes what a run has left in its folder, and nothing else."""
    for name in ("methods", "checkpoints"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("log.jsonl", "config.json"):
        (directory / name).unlink(missing_ok=True)


def stored_result(path: Path, settings: Settings) -> dict[str, Any]:
    """A method's result in a run's folder.

    Raises:
      InputError: it was reached with other settings.
    """
    try:
        result = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged; delete it and resume") from error
    if result.get("settings") != json.loads(json.dumps(asdict(settings))):
        raise InputError(f"{path}: reached with other settings; start afresh without --resume")
    return result
