"""``metaheac feedback``: which users were shown a campaign, and which of them converted."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from metaheac_jax.audience.campaign_folder import add_feedback, read_campaign
from metaheac_jax.cli import terminal
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.sources.feedback import read_feedback
from metaheac_jax.errors import InputError


@dataclass(frozen=True)
class Options:
    """Adds feedback to a campaign: which users were shown it, and which of them converted.

    Neither order nor repetition matters: a user counts once, and has converted if any record says
    so. `metaheac update` then learns from the feedback.
    """

    campaign: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="CAMPAIGN")]
    """Folder of a campaign, from `metaheac customise`."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
    """Files with a row per record: .parquet, .csv or .csv.gz, with the columns user_id and
    converted (1 or 0). Other columns are ignored. A file may have only a header."""
    replace: bool = False
    """Replace all feedback so far, for example after a wrong file, instead of adding to it. Without
    a FILE, all feedback is taken back."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.files and not options.replace:
        raise InputError("feedback: give the files that say who was shown it and who converted")
    terminal.check_not_in("CAMPAIGN", options.campaign, *options.files)
    screen = terminal.screen()
    before = read_campaign(options.campaign)
    text = before.record.user_ids.dtype.kind == "S"
    added, lines = Feedback.of(before.record.user_ids[:0], np.empty(0, bool)), []
    for path in options.files:
        read = _read(path, options.campaign, text=text)
        added = added.merge(read)
        counts = f"{len(read):,} users, {read.converted.sum():,} of them converted"
        lines.append(f"{path}: {counts if len(read) else 'has no records'}")
    total = add_feedback(options.campaign, added, replace_all=options.replace).feedback
    new = len(np.setdiff1d(total.user_ids, before.feedback.user_ids))
    lines.append(
        f"{options.campaign}: now feedback on {len(total):,} users ({new:,} of them new), "
        f"{total.converted.sum():,} of them converted"
    )
    lines.append(f"next: metaheac update {terminal.quoted(options.campaign)} --data DATA")
    terminal.print_lines(screen, *lines)


def _read(path: Path, campaign: Path, *, text: bool) -> Feedback:
    """The feedback in a file, whose ids must be of the campaign's kind.

    Raises:
      InputError: as `read_feedback`; the message has a remedy if only the kind of the ids is wrong.
    """
    try:
        return read_feedback(path, text=text)
    except InputError as error:
        if text:
            raise
        read_feedback(path, text=True)  # raises if something else is wrong
        raise InputError(
            f"{error}; if the data has text as ids now, metaheac update "
            f"{terminal.quoted(campaign)} --data DATA first"
        ) from error
