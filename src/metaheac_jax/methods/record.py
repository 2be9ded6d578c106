"""What is recorded of a training: in its general model, and beside its checkpoints."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax

from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.storage import content_digest
from metaheac_jax.environment import environment, keep_config
from metaheac_jax.errors import InputError
from metaheac_jax.methods.method import Method, Run, Trained
from metaheac_jax.model import General, Judged, on_device
from metaheac_jax.progress import Progress
from metaheac_jax.training.checkpoint import MANIFEST as CHECKPOINT
from metaheac_jax.training.checkpoint import array_digest


def general_of(method: Method[Any], run: Run, trained: Trained) -> General:
    """The general model of a method's training."""
    data, start = run.dataset, run.start
    return General(
        method=method.name,
        config=method.config.plain(),
        schema=data.schema,
        vocabulary=data.vocabulary,
        state=on_device(trained.state),  # once, not at every use
        data=data.name,
        campaigns=_trained_on(run),
        seed=run.seed,
        judgements=tuple(
            Judged(int(step), auc, loss) for step, auc, loss in trained.judgements.tolist()
        ),
        held_out=_held_out(run),
        parent=None if start is None or start.origin is None else start.origin.digest,
        data_digest=data.digest,
        optimizer=trained.optimizer,
    )


def keep_training_config(
    method: Method[Any], run: Run, directory: Path, progress: Progress
) -> None:
    """Writes a training's configuration beside its checkpoints, or compares it with that file.

    Raises:
      InputError: the checkpoints are those of another training.
    """
    data, start = run.dataset, run.start
    # The number of epochs may change. So may settings that only the online stage uses, unless
    # models are customised to tell when training stops.
    free = ("offline_epochs", "offline_patience")
    if run.judge is None:
        free += ("penalty", "online_")
    settings = {
        name: value
        for name, value in method.config.named().items()
        if not name.rpartition(".")[2].startswith(free)
    }
    config = {
        "method": method.name,
        "settings": settings,
        "seed": run.seed,
        "data": {"name": data.name, "sha256": content_digest(data, progress=progress)},
        "campaigns": [plain_id(value) for value in data.campaign_ids[run.campaigns]],
        "held_out": [plain_id(value) for value in data.campaign_ids[run.held_out]],
        "start": start and [digest_of_start(start), steps_of(start)],
        **environment(),
    }
    directory = directory if directory.name else directory.resolve()
    path = directory.with_name(f"{directory.name}.json")
    restart = f"delete {path} and {directory} to train afresh"
    found = [*directory.glob(f"*/{CHECKPOINT}"), *directory.glob(f"*/*/{CHECKPOINT}")]
    if found and not path.is_file():  # the second pattern is for an ensemble's members
        raise InputError(
            f"{directory}: has checkpoints, but {path.name}, which describes their training, "
            f"is not beside it; move both together, or {restart}"
        )
    keep_config(path, config, restart=restart)


def digest_of_start(start: General | None) -> str | None:
    """Digest of the model that training continues from; of its arrays, if it was not saved."""
    if start is None:
        return None
    if start.origin is not None:
        return start.origin.digest
    leaves = jax.tree.leaves((dict(start.state), start.optimizer))
    return hashlib.sha256("".join(map(array_digest, leaves)).encode()).hexdigest()


def _trained_on(run: Run) -> tuple[int | str, ...]:
    """Ids of the campaigns of this training and of earlier ones that it continues, each once."""
    own = [plain_id(value) for value in run.dataset.campaign_ids[run.campaigns]]
    return tuple(dict.fromkeys([*_ids(run, run.start.campaigns if run.start else ()), *own]))


def _held_out(run: Run) -> tuple[int | str, ...]:
    """Ids of the campaigns held out here, or held out earlier and not trained on since."""
    own = [plain_id(value) for value in run.dataset.campaign_ids[run.held_out]]
    trained, before = {*own, *_trained_on(run)}, run.start.held_out if run.start else ()
    return *own, *(key for key in _ids(run, before) if key not in trained)


def _ids(run: Run, keys: Sequence[int | str]) -> list[int | str]:
    """Campaign ids of an earlier training, as text if those of the data are text."""
    text = run.dataset.campaign_ids.dtype.kind == "S"
    return [str(key) if text else key for key in keys]


def steps_of(general: General) -> int:
    """Number of steps that a general model's optimiser has taken; 0 if it has no state."""
    return 0 if general.optimizer is None else int(general.optimizer["count"])
