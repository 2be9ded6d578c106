"""``metaheac update``: a campaign's model learns from feedback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
import tyro

from metaheac_jax.audience.campaign_folder import SavedCampaign, read_campaign, update_customised
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import (
    KEPT_GENERAL,
    check_readable,
    read_excluded,
    unseen_notes,
)
from metaheac_jax.data.campaign_record import is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import Busy, Diverged, InputError, Refusals, message_of
from metaheac_jax.files import locked
from metaheac_jax.model import Customised, General, load
from metaheac_jax.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Options:
    """Customises the model of a campaign, or of many, again: to its seeds and all feedback so far.

    Users who converted count as seeds, and users who were shown the campaign and did not convert as
    non-seeds, unless they were seeds from the start. Where few convert, only a random part of the
    latter count. The part is so large that the converts are as many as the model expects without
    feedback, for which it is customised once more. With all of them, users like those in an
    audience would sink below users who were never shown the campaign. The result does not depend on
    how often this has been run before. Nothing is done if feedback, data, general model and seed
    are the same as last time, and neither --exclude nor --readmit changes who is left out.
    """

    campaigns: Annotated[
        tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="CAMPAIGN [CAMPAIGN ...]")
    ]
    """Folders of campaigns, from `metaheac customise`: one, or many, as campaigns/*. The data is
    read once for all, and a general model once for campaigns in a row that have it. An error in one
    campaign does not stop the others. It is told at the end, and the exit code is 2, or 75 if all
    that failed is that another process is writing a folder."""
    data: Path
    """Folder of the data set with the campaign's users."""
    model: Path | None = None
    """Folder of another general model, such as today's. Default: the folder that the campaign was
    last customised from, whose model may have been replaced since."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users to leave out from now on, as for `metaheac customise`, for example
    users who opted out: nothing is learned from them, and they are in no audience of the
    campaign."""
    readmit: tuple[Path, ...] = ()
    """Files with ids of users who are no longer left out, for example after a wrong --exclude;
    those who are in --exclude, too, stay out. What the campaign knew of them counts again. Seeds
    whom `metaheac customise` left out are not among that: they may then be in audiences, and only
    `metaheac customise` makes them seeds."""
    least_seeds: int | None = None
    """Stop with an error, and keep the model, if fewer seeds and converts than this are users of
    the data. Default: 100, or half of those that the model has learned from and that are not left
    out, if that is less."""
    seed: int = 0
    """Random seed for customising."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.least_seeds is not None:
        terminal.check_minimum("--least-seeds", options.least_seeds, 1)
    if not options.campaigns:
        raise InputError("update: give the folder of a campaign, or several")
    terminal.check_distinct("CAMPAIGN", options.campaigns)
    refusals = Refusals()
    inputs = (options.data, options.model, *options.exclude, *options.readmit)
    for folder in options.campaigns:
        with refusals.collected(str(folder)):
            terminal.check_not_in("CAMPAIGN", folder, *inputs)
    folders = [folder for folder in options.campaigns if str(folder) not in refusals]
    if not folders:
        refusals.check()
    screen = terminal.screen()
    terminal.keep_compiled()
    for path in (*options.exclude, *options.readmit):
        check_readable(path)  # a file that cannot be read is reported before the work begins
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        general = None if options.model is None else load(options.model, progress=progress)
        if general is not None:
            general.check_data(data)
        excluded, notes = read_excluded(options.exclude, data)
        readmitted, more = read_excluded(options.readmit, data, aim="readmit")
        if both := is_among(readmitted, excluded).sum():
            more += [f"{both:,} users of --readmit are in --exclude, too, and stay out"]
        terminal.print_lines(screen, *(f"note: {note}" for note in [*notes, *more]))
        work = _Work(options, data, excluded, readmitted)
        for number, folder in enumerate(folders):
            if len(folders) > 1:
                progress("campaigns", number, len(folders))
            try:
                with refusals.collected(str(folder)), _about(folder):
                    general, lines = _update(folder, work, general, progress)
                    terminal.print_lines(screen, *(f"{folder}: {line}" for line in lines))
            except Busy as error:
                refusals.add(str(folder), error)
    count = len(options.campaigns)
    done = count - len(refusals.reasons)
    refusals.check(f"; {done} of {count} campaigns are up to date" if done else "")


@contextmanager
def _about(folder: Path) -> Iterator[None]:
    """A context in which all errors of a campaign are an `InputError` that names its folder."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{folder}: {message_of(error)}") from error
    except Diverged as error:
        raise InputError(f"{folder}: {error}") from error
    except InputError as error:
        if str(error).startswith((f"{folder}:", f"{folder}/")):
            raise
        raise type(error)(f"{folder}: {error}") from error


class _Work(NamedTuple):
    """What all campaigns have in common.

    Attributes:
      options: options of the command.
      data: the data with the campaigns' users.
      excluded, readmitted: user ids from --exclude and --readmit.
    """

    options: Options
    data: Dataset
    excluded: np.ndarray
    readmitted: np.ndarray


def _update(
    folder: Path, work: _Work, general: General | None, progress: Progress
) -> tuple[General, list[str]]:
    """Updates one campaign.

    Args:
      folder: the campaign's folder.
      work: what all campaigns have in common.
      general: the general model of --model, or of the campaign before; None for none.
      progress: receives the progress.

    Returns:
      The general model that the campaign is customised from, and lines on what was done.
    """
    options, changes = work.options, {"exclude": work.excluded, "readmit": work.readmitted}
    with locked(folder):
        saved = read_campaign(folder, progress=progress)
        before = None if general is None or general.origin is None else general.origin.folder
        if general is None or (options.model is None and before != saved.origin.folder):
            general = saved.load_general(progress)
        known, lines = saved.with_ids_of(work.data), list[str]()
        if len(work.readmitted):
            left_out = is_among(work.readmitted, known.excluded).sum()
            lines = [f"{left_out:,} of {len(work.readmitted):,} users of --readmit were left out"]
        if saved.would_stay(general, work.data, options.seed, **changes):
            same = "feedback, data, model, seed and who is left out are as before; nothing to do"
            return general, [*lines, same]
        is_other = not saved.is_of(general)
        data = work.data.remember(known.user_ids, progress=progress)
        saved = update_customised(
            folder,
            general,
            data,
            **changes,
            least_seeds=options.least_seeds,
            seed=options.seed,
            progress=progress,
        )
    first, *others = _told(saved, saved.customised(general, data), data)
    if is_other:
        others.insert(0, f"from another general model than before, in {saved.origin.folder}")
    return general, [*lines, first, *others]


def _told(saved: SavedCampaign, model: Customised, data: Dataset) -> Iterator[str]:
    users, converted = saved.feedback.user_ids, saved.feedback.converted
    found = data.find_users(users) >= 0
    num_seeds, num_used = len(model.seed_ids), len(model.campaign.seeds)
    yield (
        f"customised again, with feedback on {len(users):,} users: {found.sum():,} of them "
        f"are users of the data, and {(found & converted).sum():,} of these converted"
    )
    if saved.share < 1:
        examples = saved.examples
        counted = np.isin(users[~converted], examples.user_ids[examples.labels == 0]).sum()
        yield (
            f"{counted:,} of the {(~converted).sum():,} users who did not convert count as "
            "non-seeds, since few convert"
        )
    if num_used < num_seeds:
        yield f"{num_used:,} of its {num_seeds:,} seeds and converts are users of the data"
    if len(users) and not found.any():
        yield (
            "none of the users with feedback is a user of the data; check their ids "
            "(metaheac feedback --replace takes wrong feedback back)"
        )
    if len(saved.excluded):
        yield f"{len(saved.excluded):,} users are excluded; nothing is learned from them"
    yield from unseen_notes(model)
    if model.is_general:
        yield KEPT_GENERAL
