"""``metaheac update``: a campaign's model learns from feedback."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
from metaheac_jax.errors import Diverged, InputError, Refusals
from metaheac_jax.files import locked
from metaheac_jax.model import Customised, General, load
from metaheac_jax.progress import Progress, prefixed


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
    """Folders of campaigns, from `metaheac customise`: one, or many such as campaigns/*, for which
    model and data are read once. An error in one does not stop the others; the exit code is then 2,
    and the message names it."""
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
    folders = _distinct(options.campaigns)
    inputs = (options.data, options.model, *options.exclude, *options.readmit)
    for folder in folders:
        terminal.check_not_in("CAMPAIGN", folder, *inputs)
    screen, refusals = terminal.screen(), Refusals()
    terminal.keep_compiled()
    for path in (*options.exclude, *options.readmit):
        check_readable(path)  # a file that cannot be read is reported before the work begins
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        excluded, notes = read_excluded(options.exclude, data)
        readmitted, more = read_excluded(options.readmit, data, aim="readmit")
        if both := is_among(readmitted, excluded).sum():
            more += [f"{both:,} users of --readmit are in --exclude, too, and stay out"]
        terminal.print_lines(screen, *(f"note: {note}" for note in [*notes, *more]))
        work = _Work(options, data, excluded, readmitted, {})
        for number, folder in enumerate(folders, start=1):
            several = f"{number} of {len(folders)}, " if len(folders) > 1 else ""
            with refusals.collected(str(folder)):
                lines = _update(folder, work, prefixed(progress, several))
                terminal.print_lines(screen, *(f"{folder}: {line}" for line in lines))
    refusals.check("; the other campaigns are up to date" if len(folders) > 1 else "")


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """The folders of campaigns.

    Raises:
      InputError: there is none, or one is given twice.
    """
    if not folders:
        raise InputError("update: give the folder of a campaign, or several")
    places = [folder.resolve() for folder in folders]
    for number, folder in enumerate(folders):
        if places[number] in places[:number]:
            raise InputError(f"update: {folder} is given twice; give it once")
    return list(folders)


class _Work(NamedTuple):
    """What all campaigns have in common.

    Attributes:
      options: options of the command.
      data: the data with the campaigns' users.
      excluded, readmitted: user ids from --exclude and --readmit.
      generals: the general model that was loaded last, by its folder.
    """

    options: Options
    data: Dataset
    excluded: np.ndarray
    readmitted: np.ndarray
    generals: dict[Path, General]

    def general_of(self, saved: SavedCampaign, progress: Progress) -> General:
        """The general model to customise a campaign from."""
        place = self.options.model or saved.origin.folder
        if place not in self.generals:
            self.generals.clear()
            if self.options.model is None:
                self.generals[place] = saved.load_general(progress)
            else:
                self.generals[place] = load(place, progress=progress)
        return self.generals[place]


def _update(folder: Path, work: _Work, progress: Progress) -> list[str]:
    """Updates one campaign; lines on what was done."""
    seed, changes = work.options.seed, {"exclude": work.excluded, "readmit": work.readmitted}
    with locked(folder):
        saved = read_campaign(folder, progress=progress)
        general = work.general_of(saved, progress)
        known = saved.with_ids_of(work.data)
        notes = []
        if len(work.readmitted):
            left_out = is_among(work.readmitted, known.excluded).sum()
            notes = [f"{left_out:,} of {len(work.readmitted):,} users of --readmit were left out"]
        if saved.would_stay(general, work.data, seed, **changes):
            same = "feedback, data, model, seed and who is left out are as before; nothing to do"
            return [*notes, same]
        is_other = not saved.is_of(general)
        data = work.data.remember(known.user_ids, progress=progress)
        try:
            saved = update_customised(
                folder,
                general,
                data,
                **changes,
                least_seeds=work.options.least_seeds,
                seed=seed,
                progress=progress,
            )
        except Diverged as error:
            raise InputError(f"{folder}: {error}") from error
    lines = list(_told(saved, saved.customised(general, data), data))
    if is_other:
        lines.insert(1, f"from another general model than before, in {saved.origin.folder}")
    return [*notes, *lines]


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
