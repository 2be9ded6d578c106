"""``metaheac fit``: trains a general model on the campaigns of a data set."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from rich.console import Console

from metaheac_jax.audience.campaign_folder import SavedCampaign, read_campaign
from metaheac_jax.audience.workspace import TRAINING, remove_work
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import check_readable, read_excluded, unseen_values
from metaheac_jax.cli.changed_settings import changed_settings
from metaheac_jax.cli.devices import DeviceOptions, mesh_of
from metaheac_jax.data.batches import is_usable, list_campaigns
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.splits import official_split, paper_split
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.environment import MayChange
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, write_text
from metaheac_jax.methods import Method, method_named, method_of
from metaheac_jax.methods.record import steps_of
from metaheac_jax.model import MANIFEST, AddedCampaign, General, load, save
from metaheac_jax.processes import check_same, from_first, is_first
from metaheac_jax.progress import Progress
from metaheac_jax.settings import SETTINGS
from metaheac_jax.training.checkpoint import array_digest

_LOG = "log.jsonl"  # in the folder of a training


@dataclass(frozen=True)
class Options:
    """Trains one general model on many campaigns; `metaheac expand` customises it to a new one.

    Checkpoints go to OUT.training, which is removed at the end. After an interruption, the same
    command with --resume continues from the last checkpoint. With --resume from the start, one line
    serves both, while the data and the options stay the same. If they change after an interruption,
    delete OUT.training to start afresh.
    """

    data: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """Folder of a data set, from `metaheac prepare`."""
    out: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT")]
    """Folder for the model; a model there is replaced. Campaigns that were customised from it then
    need `metaheac update`."""
    method: str | None = None
    """Name of the method, for example metaheac (the default), solved-head, ensemble,
    mlp-pretraining or lr; an unknown name lists all methods."""
    settings: Literal["paper", "official"] | None = None
    """Settings of the paper (the default), or of its authors' program (wider embeddings)."""
    set: Annotated[tuple[str, ...], tyro.conf.arg(metavar="NAME=VALUE")] = ()
    """Other values for some of the method's settings, for example value_dropout=.7 width=64; an
    unknown name lists all. A setting that the method does not use has no effect. value_dropout (0
    to below 1) leaves out this fraction of users' values at random in each step of training, so
    that it does not remember users by their rare values. Training then takes longer. Try 0, .5 and
    .9, and compare the AUC that the command prints. The value_dropout of an ensemble is for its
    network."""
    start: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Continue training from this model, for example every day on new data. Use `metaheac prepare
    --extends MODEL` to make such data. Method and settings are the model's. This needs the
    model's subfolder `optimizer`, which holds the state of its optimiser. Campaigns that were held
    out of its training still are, with some of the new ones."""
    campaigns: Literal["all", "paper", "official"] = "all"
    """Campaigns to train on: all; paper, a random 60% as in the paper (those of one column of users
    stay together), so that `metaheac evaluate` can judge the rest; or official, the half that the
    authors' program takes. With --from, paper takes all that the model has seen and, if they are
    fewer than 60%, others at random."""
    skip_unusable: bool = False
    """Leave out campaigns of the data that no model can be trained on, because they have fewer than
    20 examples of stage 1 (to learn from), or only seeds or only non-seeds. The command names them,
    and exits with code 3. By default, such a campaign is an error."""
    with_: Annotated[tuple[Path, ...], tyro.conf.arg(name="with")] = ()
    """Folders of campaigns, from `metaheac customise`, to train on as well: the examples
    that their own models learn from. They are not held out. A folder's name is the id of the
    campaign."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users who opted out, one per line, or a .csv, .csv.gz or .parquet file with
    a column user_id: this training learns nothing from their examples, nor from those in --with.
    What the model of --from has learned from them stays; to remove that, train without --from."""
    epochs: int | None = None
    """Train for this many epochs, on all these campaigns; for methods that are trained in steps. By
    default, the paper's settings hold a tenth of the campaigns out, and end training when results
    on these, after customising, no longer improve. The official settings train on all for one
    epoch. Without held-out campaigns, LR has no share in a new ensemble."""
    seed: int = 0
    """Random seed for the split, initial values and batches."""
    resume: bool = False
    """Continue an interrupted training; if there is none, start one. Data, options, the program and
    its libraries must be the same as before, or the result would be different."""
    allow_change: tuple[MayChange, ...] = ()
    """With --resume, parts that may have changed nevertheless."""
    log: Path | None = None
    """File to write the log of the training to, once the model is written: JSON lines with step,
    mean loss since the last line, steps per second, and AUC and loss on the held-out campaigns; of
    an ensemble, those of each member by its name. For methods that are trained in steps."""
    skip_nonfinite: int = 0
    """Skip up to this many training steps whose loss, gradient or result is not finite; each is
    reported, with its campaigns. By default, the first one ends the training. For methods that are
    trained in steps."""
    devices: tyro.conf.OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)


def main(options: Options) -> int:
    """Runs the command; returns its exit code."""
    changes = _check_options(options)
    method = method_named(options.method or "metaheac", SETTINGS[options.settings or "paper"])
    method = method.with_settings(**changes)
    mesh = mesh_of(options.devices)
    screen = terminal.screen()
    terminal.keep_compiled()
    inputs = (options.data, options.start, *options.with_, *options.exclude)
    terminal.check_output_folder("OUT", options.out, MANIFEST, "a model", *inputs)
    directory = terminal.work_folder("OUT", options.out, TRAINING)
    if options.log is not None:
        terminal.check_output("--log", options.log, *inputs, lock=is_first())
    for path in options.exclude:
        check_readable(path)  # a file that cannot be read is reported before the work begins
    writes = is_first()
    with (
        locked(options.out) if writes else nullcontext(),
        terminal.progress_display(screen) as progress,
    ):
        data, start = open_dataset(options.data, verify=writes, progress=progress), None
        if options.start is not None:
            start = load(options.start, optimizer=True, progress=progress)
            method = method_of(start)
            method.check_start(start, data)
        for name in ("epochs", "log", "skip_nonfinite"):
            if getattr(options, name) and not method.takes_steps:
                option = f"--{name.replace('_', '-')}"
                raise InputError(f"{option}: {method.name} takes no steps; omit the option")
        if options.epochs is not None:
            method = method.with_settings(offline_epochs=options.epochs, offline_patience=None)
        excluded = _read_excluded(options.exclude, data, screen)
        data = _without_excluded(data, excluded, screen, progress)
        campaigns, notes = _training_campaigns(data, options.campaigns, options.seed, start), []
        if options.skip_unusable:
            campaigns, notes = _usable(data, campaigns)
            terminal.print_lines(screen, *notes)
        folders = [read_campaign(folder) for folder in options.with_]
        added = np.empty(0, int)
        if folders:
            data, campaigns, added = _with_folders(data, campaigns, folders)
            data = _without_excluded(data, excluded, screen, progress)
            terminal.print_lines(screen, *_folder_notes(data, folders))
        _check(method, data, campaigns, options)  # before anything is written
        if mesh is not None:
            method.check_mesh()
            check_same("campaigns of --with", [folder.digest for folder in folders])
            check_same("users of --exclude", array_digest(excluded))
        is_new = writes and _open_training(options, directory, screen)
        try:
            general = method.fit(
                data,
                start=start,
                campaigns=campaigns,
                never_held_out=added,
                seed=options.seed,
                mesh=mesh,
                directory=directory / "checkpoints",
                log=directory / _LOG,
                allow_changes=options.allow_change,
                skip_nonfinite=options.skip_nonfinite,
                progress=progress,
            )
        except InputError:
            if is_new and not (directory / "checkpoints").exists():
                remove_work(directory)  # no training has begun
            raise
        if writes:
            general = replace(general, added=_with_added(general.added, map(_added, folders)))
            _write(options, general, directory, progress)
        from_first(None)  # the other processes end after the first
    terminal.print_lines(
        screen,
        *_told(options, method.label, general, start, data, campaigns),
        f"next: metaheac expand {terminal.quoted(options.out)} --data "
        f"{terminal.quoted(options.data)} --seeds FILE --attributes FILE --size N "
        "--out audience.csv",
    )
    return terminal.FAULTS if notes else 0


def _check_options(options: Options) -> dict[str, Any]:
    """Refuses options that do not go together, before any work; the values of --set."""
    terminal.check_minimum("--seed", options.seed, 0)
    terminal.check_minimum("--skip-nonfinite", options.skip_nonfinite, 0)
    if options.epochs is not None:
        terminal.check_minimum("--epochs", options.epochs, 1)
    if options.log is not None:
        place, out = options.log.resolve(), options.out.resolve()
        if out in (place, *place.parents):
            raise InputError(f"--log: {options.log} lies in {options.out}; give a file outside")
    terminal.check_distinct("--with", options.with_)
    if options.start is not None and options.start.resolve() == options.out.resolve():
        raise InputError(
            f"--from: {options.out} would be replaced, and its campaigns are customised from it; "
            "choose another folder"
        )
    if options.start is not None and options.campaigns == "official":
        raise InputError(
            "--from: --campaigns official divides all campaigns anew, so the model may have seen "
            "those it leaves out; give --campaigns paper"
        )
    if options.start is not None and (options.method or options.settings or options.set):
        raise InputError("--from: the method and settings are the model's; omit these options")
    changes = changed_settings(options.set)
    if options.epochs is not None and {"offline_epochs", "offline_patience"} & {*changes}:
        raise InputError("--epochs: --set says how long to train; omit one of them")
    if options.allow_change and not options.resume:
        raise InputError("--allow-change: only with --resume")
    return changes


def _write(options: Options, general: General, directory: Path, progress: Progress) -> None:
    """Writes the model and the log, and removes the folder of the training."""
    save(general, options.out, progress=progress)
    if options.log is not None:
        log = directory / _LOG
        write_text(options.log, log.read_text() if log.exists() else "")
    remove_work(directory)


def _judged(general: General, num_held_out: int) -> str:
    """How many campaigns were held out, and how good the model is on them, if it is known."""
    if not num_held_out:
        return ""
    held_out = f"{num_held_out} more, held out to decide when to stop"
    if not general.judgements:
        return f"; {held_out}"
    best = max(general.judgements, key=lambda judged: judged.auc)
    return f"; AUC {best.auc:.4f} on {held_out}, at step {best.step:,}"


def _told(
    options: Options,
    label: str,
    general: General,
    start: General | None,
    data: Dataset,
    campaigns: np.ndarray,
) -> Iterator[str]:
    """Lines on what the model was trained on, and how good it is."""
    held_out = data.campaigns_among(general.held_out)[campaigns]
    num_held_out, num_folders = int(held_out.sum()), len(options.with_)
    trained_on = f"{len(campaigns) - num_held_out - num_folders} campaigns of {data.name}"
    trained_on += f" and {num_folders} of --with" if num_folders else ""
    yield f"{options.out}: {label}, trained on {trained_on}{_judged(general, num_held_out)}"
    if start is not None:
        seen = held_out & data.campaigns_among(general.campaigns)[campaigns]
        yield from _start_notes(general, start, options.start, int(seen.sum()))


def _start_notes(
    general: General, start: General, folder: Path | None, num_seen: int
) -> Iterator[str]:
    """Lines on a training that continued from a model and did not improve it, or cannot tell."""
    if num_seen:
        yield (
            f"note: earlier trainings learned from {num_seen} of the held-out campaigns, so this "
            "AUC is too high, and training may end too early; add campaigns"
        )
    if steps_of(general) == steps_of(start):
        yield (
            "note: no later state was better on the held-out campaigns, so the trained weights are "
            f"those of {folder}"
        )


def _read_excluded(paths: Sequence[Path], data: Dataset, screen: Console) -> np.ndarray:
    """Ids of the users in these files; prints notes on them."""
    excluded, notes = read_excluded(paths, data)
    terminal.print_lines(screen, *(f"note: {note}" for note in notes))
    return excluded


def _without_excluded(
    data: Dataset, excluded: np.ndarray, screen: Console, progress: Progress
) -> Dataset:
    """The data without the examples of excluded users."""
    kept = data.without_examples_of(excluded, progress=progress)
    num_left_out = len(data.stage1.user) - len(kept.stage1.user)
    if num_left_out:
        line = f"note: {num_left_out:,} examples of users in --exclude are left out"
        terminal.print_lines(screen, line)
    return kept


def _training_campaigns(
    data: Dataset, which: str, seed: int, start: General | None = None
) -> np.ndarray:
    """Indices of the campaigns to train on; with a start, all that it has seen are among them."""
    if not data.num_campaigns:  # --with may have all of them
        if which != "all":
            raise InputError(
                f"{data.where}: has users alone; prepare campaigns and examples, or omit "
                "--campaigns"
            )
        return np.empty(0, int)
    if which == "paper":
        seen = () if start is None else (*start.campaigns, *start.held_out)
        return paper_split(data, seed, known=np.flatnonzero(data.campaigns_among(seen))).train
    if which == "official":
        return official_split(data).train
    return np.arange(data.num_campaigns)


def _usable(data: Dataset, campaigns: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The campaigns that a model can be trained on, and a line that names the others.

    Raises:
      InputError: there is no such campaign.
    """
    usable = is_usable(data)[campaigns]
    if usable.all():
        return campaigns, []
    if not usable.any():
        raise InputError(
            f"--skip-unusable: leaves no campaign of {data.where}; give the campaigns more examples"
        )
    skipped = campaigns[~usable]
    line = f"note: left out as unusable ({len(skipped)}): {list_campaigns(data, skipped)}"
    return campaigns[usable], [line]


def _check(method: Method, data: Dataset, campaigns: np.ndarray, options: Options) -> None:
    """Refuses campaigns that the method cannot be trained on; names the option that may help."""
    try:
        method.check(data, campaigns)
    except InputError as error:
        if options.skip_unusable or is_usable(data)[campaigns].all():
            raise
        raise InputError(f"{error}; --skip-unusable leaves out those of the data") from error


def _folder_notes(data: Dataset, folders: Sequence[SavedCampaign]) -> Iterator[str]:
    """Lines on campaigns of folders with unknown values, or with feedback not learned from."""
    for folder in folders:
        if folder.learned != folder.known:
            yield (
                f"note: {folder.record.name}: its feedback has changed since its model learned "
                "from it; metaheac update it first, which finds how many of the users without "
                "conversion are non-seeds"
            )
        attributes = folder.record.attributes
        rows = data.vocabulary.encode_attributes(data.schema, attributes)
        if names := data.unknown_attributes(rows):
            values = unseen_values(data.schema, data.vocabulary, names, attributes)
            yield (
                f"note: {folder.record.name}: the data does not know these values, of which "
                f"nothing is learned: {values}"
            )


def _with_folders(
    data: Dataset, campaigns: np.ndarray, folders: Sequence[SavedCampaign]
) -> tuple[Dataset, np.ndarray, np.ndarray]:
    """Adds the campaigns of folders to a data set.

    Returns the data set, the indices of all campaigns to train on, and those of the folders.
    """
    joined = data.with_campaigns([folder.examples for folder in folders])
    left_out = np.delete(data.campaign_ids, campaigns)
    chosen = np.flatnonzero(~np.isin(joined.campaign_ids, left_out))
    return joined, chosen, np.flatnonzero(~np.isin(joined.campaign_ids, data.campaign_ids))


def _added(saved: SavedCampaign) -> AddedCampaign:
    record = saved.record
    return AddedCampaign(record.name, saved.digest or "", dict(record.attributes))


def _with_added(
    earlier: Sequence[AddedCampaign], new: Iterable[AddedCampaign]
) -> tuple[AddedCampaign, ...]:
    """Adds campaigns; each replaces earlier ones with its name and attributes."""
    new = tuple(new)
    again = [_as_key(own) for own in new]
    return *(own for own in earlier if _as_key(own) not in again), *new


def _as_key(added: AddedCampaign) -> str:
    return json.dumps([added.name, dict(added.attributes)], sort_keys=True)  # NaN equals itself


def _open_training(options: Options, directory: Path, screen: Console) -> bool:
    """Makes the folder of a training, or with --resume takes one; returns whether it is new.

    Raises:
      InputError: there is one, without --resume.
    """
    is_new = not directory.exists()
    if is_new and options.resume:
        terminal.print_lines(screen, f"{directory}: no training to resume; a new one starts")
    if not is_new and not options.resume:
        raise InputError(
            f"{directory}: an interrupted training; continue with --resume, or delete the folder"
        )
    directory.mkdir(parents=True, exist_ok=True)
    return is_new
