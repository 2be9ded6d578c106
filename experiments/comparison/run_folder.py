"""The folder of a run, ``OUT/seed-R``, from which the run can be resumed.

It holds ``config.json``, ``methods/NAME.json`` (one campaign's figures per entry),
``checkpoints/NAME/`` and ``log.jsonl``. Each training of a tuning or of a live week has its own log
in ``checkpoints``.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

from metaheac_jax.environment import environment, keep_config
from metaheac_jax.errors import InputError
from metaheac_jax.settings import Settings

EXPERIMENTS = Path(__file__).parents[1]


def open_run(
    directory: Path, config: dict[str, Any], *, resume: bool, allow_changes: Collection[str] = ()
) -> None:
    """Makes a run's folder, or checks that the one to be resumed has the same configuration.

    A new run removes the files that an older run left there, and no others.

    Args:
      directory: the run's folder.
      config: what determines the results. The environment is added, with the code of `EXPERIMENTS`.
      resume: whether to resume the run.
      allow_changes: names of what may have changed, see `environment.MayChange`.

    Raises:
      InputError: there is nothing to resume, the run in the folder has another configuration, or
        the folder is not a run's.
    """
    path = directory / "config.json"
    if resume and not path.is_file():
        raise InputError(f"{directory}: no run to resume; omit --resume to start one")
    if not resume:
        for name in ("methods", "checkpoints"):
            if (directory / name).exists() and not path.is_file():
                raise InputError(
                    f"{directory}: has {name} but no config.json, so it is not a run's folder; "
                    "choose another --out"
                )
        clear_run(directory)
    restart = "start afresh without --resume"
    config = {**config, **environment(EXPERIMENTS)}
    keep_config(path, config, allow_changes=allow_changes, restart=restart)
    (directory / "methods").mkdir(exist_ok=True)


def clear_run(directory: Path) -> None:
    """Removes the files that a run left in its folder, and no others."""
    for name in ("methods", "checkpoints"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for name in ("log.jsonl", "config.json"):
        (directory / name).unlink(missing_ok=True)


def stored_result(path: Path, settings: Settings) -> dict[str, Any]:
    """A method's result in a run's folder.

    Raises:
      InputError: it is damaged, or it was reached with other settings.
    """
    try:
        result = dict(json.loads(path.read_text()))
    except (ValueError, TypeError) as error:
        raise InputError(f"{path}: damaged; delete it and resume") from error
    if result.get("settings") != json.loads(json.dumps(asdict(settings))):
        raise InputError(f"{path}: reached with other settings; start afresh without --resume")
    return result
