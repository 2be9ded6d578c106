"""``metaheac update``: a campaign's model learns from feedback."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from metaheac_jax.audience.campaign_folder import SavedCampaign, read_campaign, update
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import KEPT_GENERAL, read_excluded, unseen_notes
from metaheac_jax.data.campaign_record import is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.files import locked
from metaheac_jax.model import Customised, load


@dataclass(frozen=True, kw_only=True)
class Options:
    """Customises a campaign's model again, to its seeds and to all feedback so far.

    Users who converted count as seeds, and users who were shown the campaign and did not convert as
    non-seeds, unless they were seeds from the start. Where few convert, only a random part of the
    latter count. The part is so large that the converts are as many as the model expects without
    feedback, for which it is customised once more. With all of them, users like those in an
    audience would sink below users who were never shown the campaign. The result does not depend on
    how often this has been run before. Nothing is done if feedback, data, general model and seed
    are the same as last time, and neither --exclude nor --readmit changes who is left out.
    """

    campaign: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAMPAIGN")]
    """Folder of a campaign, from `metaheac customise`."""
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
    inputs = (options.data, options.model, *options.exclude, *options.readmit)
    terminal.check_not_in("CAMPAIGN", options.campaign, *inputs)
    screen = terminal.screen()
    terminal.keep_compiled()
    with locked(options.campaign), terminal.progress_display(screen) as progress:
        saved = read_campaign(options.campaign, progress=progress)
        if options.model is None:
            general = saved.load_general(progress)
        else:
            general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        lines = ["feedback, data, model, seed and who is left out are as before; nothing to do"]
        excluded, notes = read_excluded(options.exclude, data)
        readmitted, more = read_excluded(options.readmit, data, aim="readmit")
        changes = {"exclude": excluded, "readmit": readmitted}
        known = saved.with_ids_of(data)
        notes += [*more, *_readmission_notes(known, excluded, readmitted)]
        if not saved.would_stay(general, data, options.seed, **changes):
            is_other = not saved.is_of(general)
            data = data.remember(known.user_ids, progress=progress)
            saved = update(
                options.campaign,
                general,
                data,
                **changes,
                least_seeds=options.least_seeds,
                seed=options.seed,
                progress=progress,
            )
            lines = list(_told(saved, saved.customised(general, data), data))
            if is_other:
                lines.insert(1, f"from another general model than before, in {saved.origin.folder}")
    terminal.print_lines(
        screen,
        *(f"note: {note}" for note in notes),
        *(f"{options.campaign}: {line}" for line in lines),
    )


def _readmission_notes(
    saved: SavedCampaign, excluded: np.ndarray, readmitted: np.ndarray
) -> Iterator[str]:
    if not len(readmitted):
        return
    known, both = is_among(readmitted, saved.excluded).sum(), is_among(readmitted, excluded).sum()
    yield f"{known:,} of {len(readmitted):,} users of --readmit were left out"
    if both:
        yield f"{both:,} users of --readmit are in --exclude, too, and stay out"


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
