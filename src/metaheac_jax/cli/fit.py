"""``metaheac fit``: trains a general model on the campaigns of a data set."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError, check_whole

if TYPE_CHECKING:
    import numpy as np

    from metaheac_jax.data.dataset import Dataset
    from metaheac_jax.model import General

#: Ending of the folder beside a model that has its checkpoints until it is written.
TRAINING = ".training"
_LEAK = 0.98  # a higher AUC on held-out campaigns is no model's merit


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains one general model on many campaigns, which expand customises to new ones."""

    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Folder to write; a model there is replaced. After an interruption, the same command goes on
    #: from the checkpoints in MODEL.training, to the same model, bit for bit.
    model: Annotated[Path, Positional, option("MODEL")]
    #: ensemble (the default), the weighted sum of a solved head, a learned prior and LR, which
    #: takes some 5 minutes for 200,000 users on two cores; or metaheac, without-meta,
    #: mlp-pretraining, solved-head, learned-prior, or lr, which learns from each campaign alone;
    #: or a method of another package that is installed. metaheac has the settings of the paper,
    #: metaheac:official those of the authors' program.
    method: Annotated[str | None, option("METHOD")] = None
    #: Other values for settings, for example offline_epochs=3 or, of the ensemble, head.penalty=30;
    #: an unknown name lists close ones.
    set: Annotated[tuple[str, ...], option("NAME=VALUE...")] = ()
    #: Continue the training of this model on data that may have new users, values and campaigns.
    #: Method and settings are the model's.
    start: Annotated[Path | None, option("MODEL", name="from")] = None
    #: Ids of campaigns not to train on, so that evaluate can judge them; or a fraction of the
    #: campaigns, such as 0.4, drawn at random.
    leave_out: Annotated[tuple[str, ...], option("ID...|FRACTION")] = ()
    #: Train only on the examples before this time, such as 2026-05-01; evaluate --since judges on
    #: what came after.
    until: Annotated[str | None, option("TIME")] = None
    #: Random seed for initial values, batches and the campaigns that are left out.
    seed: Annotated[int, option("N")] = 0
    #: Devices to share the work, for example campaign=2,row=2; see docs/scale.md.
    mesh: Annotated[str | None, option("AXIS=N,...")] = None
    #: With --mesh, join the other processes of a job: auto on a cluster (Slurm, Open MPI,
    #: Kubernetes, TPU pods), or elsewhere the number of this process and of all, and the address of
    #: the first, such as 0/2@10.0.0.1:1234.
    processes: Annotated[str | None, option("auto|I/N@HOST:PORT")] = None


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.data.times import parse_time
    from metaheac_jax.files import locked
    from metaheac_jax.methods import configured, method_of
    from metaheac_jax.methods.fitting import fit
    from metaheac_jax.model import MANIFEST, load, save
    from metaheac_jax.processes import from_first, is_first
    from metaheac_jax.removing import RUN_MANIFEST, remove
    from metaheac_jax.training.sharding import device_mesh, parse_mesh

    check_whole("--seed", options.seed, 0)
    if options.start is not None and (options.method or options.set):
        raise InputError("--from: the method and settings are the model's; omit --method and --set")
    name, _, preset = (options.method or "ensemble").partition(":")
    if preset not in ("", "official"):
        raise InputError(f"--method: {options.method} is no method; expected {name}:official")
    method = configured(name, official=bool(preset), **changed_settings(options.set))
    until = None if options.until is None else parse_time(options.until, "--until")
    mesh = None if options.mesh is None else device_mesh(**parse_mesh(options.mesh))
    directory = options.model.with_name(f"{options.model.name}{TRAINING}")
    terminal.keep_compiled()
    if writes := is_first():
        inputs = (options.data, options.start)
        terminal.check_output("MODEL", options.model, *inputs, manifest=MANIFEST)
        terminal.check_output("MODEL", directory, *inputs, manifest=RUN_MANIFEST)
    with (
        locked(options.model) if writes else nullcontext(),
        terminal.progress_display() as progress,
    ):
        data, start = open_dataset(options.data, progress=progress), None
        data = data if until is None else data.until(until)
        if options.start is not None:
            start = load(options.start, optimizer=True, progress=progress)
            method = method_of(start)
        completed = data.completed(options.seed)
        campaigns, notes = training_campaigns(completed, options.leave_out, options.seed, start)
        general = fit(
            data,
            method,
            start=start,
            campaigns=campaigns,
            seed=options.seed,
            mesh=mesh,
            directory=directory,
            progress=progress,
        )
        if writes:
            save(general, options.model, progress=progress)
            if not remove(directory):
                notes.append(f"note: {directory} is kept, since it has files of others")
        from_first(None)  # the other processes end after the first
    trained = terminal.counted(len(general.campaigns), "campaign")
    told = f"{options.model}: {method.label}, trained on {trained}"
    if general.judgements:
        best = max(judged.auc for judged in general.judgements)
        told += f"; AUC {best:.4f} on {len(general.held_out)} more that were held out"
        notes += leak_notes(best)
    terminal.print_lines(*notes, told)


def leak_notes(auc: float) -> list[str]:
    """A note if held-out campaigns are ranked so well that a field must tell who has converted."""
    if auc <= _LEAK:
        return []
    return [
        f"note: a held-out AUC of {auc:.4f} is too good; look for a user field that tells who "
        "converted, such as a history with the campaign itself, and leave it out"
    ]


def join_others(options: Options) -> None:
    """Joins the other processes that ``--processes`` names, before jax starts.

    Raises:
      InputError: the text has another form, or the others cannot be joined.
    """
    from metaheac_jax.processes import join_job

    if options.processes is None:
        return
    if options.mesh is None:
        raise InputError("--processes: only with --mesh")
    found = re.fullmatch(r"(\d{1,5})/(\d{1,5})@(\S+:\d+)", options.processes)
    if options.processes == "auto":
        join_job()
    elif found is not None and int(found[1]) < int(found[2]):
        join_job(found[3], int(found[1]), int(found[2]))
    else:
        raise InputError(
            f"--processes: expected auto, or 0/2@HOST:PORT and 1/2@HOST:PORT of two processes, got "
            f"{options.processes!r}"
        )


def changed_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """Parses the values that ``--set`` gives to settings; `configured` checks them.

    A value is a number, true, false or none, or else the text itself.

    Raises:
      InputError: a text is not NAME=VALUE, or a name is repeated.
    """
    changes = dict[str, Any]()
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not separator:
            raise InputError(f"--set: expected NAME=VALUE, got {pair!r}")
        if name in changes:
            raise InputError(f"--set: {name} has two values; give one")
        changes[name] = value
        with suppress(ValueError, SyntaxError):
            changes[name] = ast.literal_eval(value.capitalize())
    return changes


def training_campaigns(
    data: Dataset, leave_out: Sequence[str], seed: int, start: General | None = None
) -> tuple[np.ndarray, list[str]]:
    """Chooses the campaigns to train on, by index, with notes on those that have too few examples.

    Args:
      data: the data.
      leave_out: ids of campaigns, or one fraction of all campaigns.
      seed: random seed with which a fraction is drawn.
      start: a model that training continues from; what it has seen is not drawn.

    Raises:
      InputError: a campaign is not in the data, or is no fraction either.
    """
    import numpy as np

    from metaheac_jax.data.batches import is_usable, list_campaigns

    chosen = np.ones(data.num_campaigns, bool)
    if len(leave_out) == 1 and re.fullmatch(r"0?\.\d+", leave_out[0]):
        seen = () if start is None else (*start.campaigns, *start.held_out)
        unseen = np.flatnonzero(~data.campaigns_among(seen))
        count = round(float(leave_out[0]) * data.num_campaigns)
        chosen[np.random.default_rng(seed).permutation(unseen)[:count]] = False
    else:
        chosen[[data.index_of(campaign) for campaign in leave_out]] = False
    few = np.flatnonzero(chosen & ~is_usable(data))
    chosen[few] = False
    told = f"note: too few examples to train on: {list_campaigns(data, few)}"
    return np.flatnonzero(chosen), [told] if len(few) else []
