"""``metaheac update``: a campaign's model learns from feedback."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.audience.campaign_folder import read_campaign, update
from metaheac_jax.cli import terminal
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.files import locked
from metaheac_jax.model import load


@dataclass(frozen=True, kw_only=True)
class Options:
    """Customises a campaign's model again: to its seeds, and to all feedback so far.

    Users who converted count as seeds, and those who were shown the campaign and did not convert as
    non-seeds. The result does not depend on how often this has been run before.
    """

    campaign: Annotated[Path, tyro.conf.Positional]
    """Folder of a campaign, from `metaheac customise`."""
    data: Path
    """Folder of the data set with the campaign's users."""
    model: Path | None = None
    """Folder of another general model, such as today's; by default the campaign's own."""
    seed: int = 0
    """Seed of fine-tuning."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    screen = terminal.screen()
    terminal.keep_compiled()
    with locked(options.campaign), terminal.progress_display(screen) as progress:
        saved = read_campaign(options.campaign, progress=progress)
        general = load(options.model or saved.origin.folder, progress=progress)
        line = "there is no new feedback, and no new model; nothing to do"
        if not saved.is_up_to_date(general):
            data = open_dataset(options.data, progress=progress)
            saved = update(options.campaign, general, data, seed=options.seed, progress=progress)
            users, converted = saved.feedback.user_ids, saved.feedback.converted
            found = data.find_users(users) >= 0
            line = (
                f"customised again, with feedback on {len(users):,} users: {found.sum():,} of them "
                f"are users of the data, and {(found & converted).sum():,} of these converted"
            )
    screen.print(f"{options.campaign}: {line}", soft_wrap=True, highlight=False, markup=False)
