"""``metaheac add``: appends campaigns, seeds and feedback to prepared data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError

if TYPE_CHECKING:
    from metaheac_jax.data.dataset import Dataset


@dataclass(frozen=True)
class Options:
    """Adds new campaigns, seeds and feedback to prepared data, in seconds."""

    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Table of campaigns, with the columns of the first one.
    campaigns: Annotated[Path | None, option("FILE")] = None
    #: Table of examples: campaign_id, user_id, label, and optionally stage, and audience (1 for the
    #: users of an audience that was shown). A user's row for a campaign replaces the earlier one.
    examples: Annotated[Path | None, option("FILE")] = None
    #: Files with ids of users who opted out, as for prepare: they are removed from all that the
    #: folder has, with values that nobody else has.
    exclude: Annotated[tuple[Path, ...], option("FILE...")] = ()


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.data.adding import add
    from metaheac_jax.data.storage import open_dataset

    if options.campaigns is None and options.examples is None and not options.exclude:
        raise InputError("add: nothing to add; give --campaigns, --examples or --exclude")
    with terminal.progress_display() as progress:
        before = open_dataset(options.data, verify=False)  # add verifies
        tables = options.campaigns, options.examples
        after = add(before, *tables, exclude=options.exclude, progress=progress)
    counts = [
        _changed(before.num_campaigns, after.num_campaigns, "campaign"),
        _changed(_examples(before), _examples(after), "example"),
        _changed(before.num_users, after.num_users, "user"),
    ]
    lines = [f"{options.data}: {', '.join(counts)}"]
    if options.exclude:
        lines.append("note: earlier models and exports know these users; fit again, without --from")
    terminal.print_lines(*lines)


def _examples(data: Dataset) -> int:
    return sum(len(stage.user) for stage in data.stages.values())


def _changed(before: int, after: int, noun: str) -> str:
    """A count, and how it has changed."""
    change = after - before
    more = f" ({abs(change):,} {'new' if change > 0 else 'removed'})" if change else ""
    return terminal.counted(after, noun) + more
