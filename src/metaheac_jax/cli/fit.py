"""``metaheac fit``: trains a general model on the campaigns of a data set."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from metaheac_jax.data.dataset import Dataset
    from metaheac_jax.model import General

#: Ending of the folder beside a model that has its checkpoints until it is written.
TRAINING = ".training"
_LOG = "log.jsonl"  # in that folder


@dataclass(frozen=True, kw_only=True)
class Options:
    """Trains one general model on many campaigns, which expand customises to new ones."""

    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Folder to write; a model there is replaced.
    model: Annotated[Path, Positional, option("MODEL")]
    #: metaheac (the default), alpha-0, without-meta, mlp-pretraining, solved-head, ensemble, or lr,
    #: which learns from each campaign alone.
    method: Annotated[str | None, option("METHOD")] = None
    #: Settings of the paper, or of its authors' program.
    preset: Literal["paper", "official"] = "paper"
    #: Other values for settings, for example offline_epochs=3 or, of the ensemble, head.penalty=30;
    #: an unknown name lists close ones.
    set: Annotated[tuple[str, ...], option("NAME=VALUE...")] = ()
    #: Continue the training of this model on data that may have new users, values and campaigns.
    #: Method and settings are the model's.
    start: Annotated[Path | None, option("MODEL", name="from")] = None
    #: Ids of campaigns not to train on, so that evaluate can judge them; or a fraction of the
    #: campaigns, such as 0.4, drawn at random.
    leave_out: Annotated[tuple[str, ...], option("ID...|FRACTION")] = ()
    #: Random seed for initial values, batches and the campaigns that are left out.
    seed: Annotated[int, option("N")] = 0
    #: Continue an interrupted training, whose checkpoints are in MODEL.training, to the same model,
    #: bit for bit; if there is none, start one.
    resume: bool = False
    #: File to write the log of the training to, as JSON lines.
    log: Annotated[Path | None, option("FILE")] = None
    #: Devices to share the work, for example campaign=2,row=2; see docs/scale.md.
    mesh: Annotated[str | None, option("AXIS=N,...")] = None
    #: With --mesh, several processes: HOST:PORT of the first one, or auto on a cluster.
    coordinator: Annotated[str | None, option("HOST:PORT|auto")] = None
    #: With --coordinator HOST:PORT, the number of this process and of all, for example 0/2.
    process: Annotated[str | None, option("I/N")] = None


def main(options: Options) -> None:
    """Runs the command."""
    changes = _check_options(options)
    directory = options.model.with_name(f"{options.model.name}{TRAINING}")
    screen = terminal.screen()
    terminal.keep_compiled()
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.files import locked, write_text
    from metaheac_jax.methods.general_models import fit
    from metaheac_jax.methods.registry import configured, method_of
    from metaheac_jax.model import load, save
    from metaheac_jax.processes import from_first, is_first
    from metaheac_jax.training.sharding import device_mesh, parse_mesh

    method = configured(options.method or "metaheac", options.preset, **changes)
    mesh = None if options.mesh is None else device_mesh(**parse_mesh(options.mesh))
    writes = is_first()
    if writes:
        _check_outputs(options, directory)
    with (
        locked(options.model) if writes else nullcontext(),
        terminal.progress_display(screen) as progress,
    ):
        data, start = open_dataset(options.data, progress=progress), None
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
            directory=directory / "checkpoints",
            log=directory / _LOG,
            progress=progress,
        )
        if writes:
            save(general, options.model, progress=progress)
            if options.log is not None:
                log = directory / _LOG
                write_text(options.log, log.read_text() if log.exists() else "")
            shutil.rmtree(directory, ignore_errors=True)
        from_first(None)  # the other processes end after the first
    trained = terminal.counted(len(general.campaigns), "campaign")
    told = f"{options.model}: {method.label}, trained on {trained}"
    if general.judgements:
        best = max(general.judgements, key=lambda judged: judged.auc)
        held_out = len(general.held_out)
        told += f"; AUC {best.auc:.4f} on {held_out} more that decided when to stop"
    folders = f"{terminal.quoted(options.model)} {terminal.quoted(options.data)}"
    following = f"evaluate {folders}"
    if not options.leave_out:
        id = shlex.quote(str(general.campaigns[0]))
        following = f"expand {folders} --campaign {id} --percent 1 --out audience.csv"
    notes = [f"note: {note}" for note in notes]
    terminal.print_lines(screen, *notes, told, f"next: metaheac {following}")


def _check_options(options: Options) -> dict[str, Any]:
    """Refuses options that do not go together, before any work; the values of --set."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.start is not None and options.start.resolve() == options.model.resolve():
        raise InputError(f"--from: {options.model} would be replaced; choose another folder")
    changed = options.method or options.preset != "paper" or options.set
    if options.start is not None and changed:
        raise InputError(
            "--from: the method and settings are the model's; omit --method, --preset and --set"
        )
    if options.log is not None:
        place, out = options.log.resolve(), options.model.resolve()
        if out in (place, *place.parents):
            raise InputError(f"--log: {options.log} lies in {options.model}; give a file outside")
    return changed_settings(options.set)


def _check_outputs(options: Options, directory: Path) -> None:
    """Refuses outputs that cannot be written, or an interrupted training without --resume."""
    from metaheac_jax.model import MANIFEST

    inputs = (options.data, options.start)
    terminal.check_output_folder("MODEL", options.model, MANIFEST, "a model", *inputs)
    if options.log is not None:
        terminal.check_output("--log", options.log, *inputs)
    if directory.exists() and not options.resume:
        raise InputError(
            f"{directory}: an interrupted training; continue with --resume, or delete the folder"
        )


def changed_settings(pairs: Sequence[str]) -> dict[str, Any]:
    """The values that ``--set`` gives to settings, by name; `registry.configured` checks them.

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
        changes[name] = _value(value)
    return changes


def _value(text: str) -> Any:
    """A setting's value as a number, true, false or none, or else the text itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for number in (int, float):
        with suppress(ValueError):
            return number(text)
    return text


def training_campaigns(
    data: Dataset, leave_out: Sequence[str], seed: int, start: General | None = None
) -> tuple[np.ndarray, list[str]]:
    """The campaigns to train on, by index, and notes on those that are left out.

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
    fraction = _fraction(leave_out)
    if fraction is None:
        chosen[[data.index_of(campaign) for campaign in leave_out]] = False
    else:
        seen = () if start is None else (*start.campaigns, *start.held_out)
        unseen = np.flatnonzero(~data.campaigns_among(seen))
        count = round(fraction * data.num_campaigns)
        chosen[np.random.default_rng(seed).permutation(unseen)[:count]] = False
    few = np.flatnonzero(chosen & ~is_usable(data))
    chosen[few] = False
    if not len(few):
        return np.flatnonzero(chosen), []
    note = f"too few examples to train on: {list_campaigns(data, few)}"
    return np.flatnonzero(chosen), [note]


def _fraction(leave_out: Sequence[str]) -> float | None:
    """The only value of ``--leave-out`` as a fraction; None if it is an id."""
    with suppress(ValueError):
        if len(leave_out) == 1 and 0 < float(leave_out[0]) < 1:
            return float(leave_out[0])
    return None
