"""``metaheac outcome``: how an audience has done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from metaheac_jax.audience.outcome import Outcome, ShownUsers, audience_outcome
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import audience_table
from metaheac_jax.cli.expanded import manifest_of
from metaheac_jax.cli.gains import gains_facts, print_gains
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.sources.feedback import read_feedback
from metaheac_jax.data.sources.table_file import TableFile
from metaheac_jax.errors import InputError, about
from metaheac_jax.files import write_json


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows how an audience has done: who of its users converted once they were shown the campaign.

    Prints how many users of the audience were shown the campaign and converted, with a 95% interval
    of the rate, and a table by tenth of these users, best first. If the ranking is good, rates fall
    from the first tenths to the last, but for chance. If the audience has probabilities, predicted
    and observed rates follow.

    Users in the files who are not in the audience are counted apart, and the ratio of the two rates
    is printed. It says how much better the audience is than these users if they were drawn at
    random from the other candidates and shown the campaign in the same way. It is neither the
    effect of showing the campaign, nor a lift of `metaheac curve`, which compares with all users.
    """

    audience: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AUDIENCE")]
    """File of the audience, from `metaheac expand`: .parquet, .csv or .csv.gz."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
    """Files that say who was shown the campaign and who converted, as for `metaheac feedback`. Give
    records from after the audience was made alone, and none of other audiences, which would count
    among the users who are not in this one."""
    out: Path | None = None
    """JSON file to write with all results: size (of the audience), shown (its users who were shown
    the campaign), others (who were shown it), rate_ratio, gains and calibration."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.files:
        raise InputError("outcome: give the files that say who was shown it and who converted")
    if options.out is not None:
        inputs = (options.audience, *options.files)
        terminal.check_output("--out", options.out, *inputs, endings=(".json",))
        if options.out.resolve() == manifest_of(options.audience).resolve():
            raise InputError(f"--out: {options.out} is the audience's record; give another")
    table = audience_table(options.audience, "rank", "probability")
    text = not table.has_whole_ids("user_id")
    ids, probabilities = _read_ranked(table, text=text)
    feedback, lines = Feedback.of(ids[:0], np.empty(0, bool)), []
    for path in options.files:
        read = read_feedback(path, text=text)
        feedback = feedback.merge(read)
        own = int(np.isin(read.user_ids, ids).sum())
        lines.append(f"{path}: {len(read):,} users, {own:,} of them in the audience")
    if not len(feedback):
        named = ", ".join(map(str, options.files))
        raise InputError(f"{named}: no records of users who were shown the campaign")
    with about(options.audience):
        outcome = audience_outcome(ids, feedback, probabilities=probabilities)
    if options.out is not None:
        write_json(options.out, _facts(outcome))
    screen = terminal.screen()
    terminal.print_lines(screen, *lines, *_lines(options.audience, outcome))
    print_gains(screen, outcome.gains, outcome.calibration, of="users shown: ")


def _read_ranked(table: TableFile, *, text: bool) -> tuple[np.ndarray, np.ndarray | None]:
    """The user ids of an audience, best first, and their probabilities if it has any.

    Raises:
      InputError: the file cannot be read or has no users; an id is not valid or occurs twice; or a
        rank or a probability is not a number in its range. The message names the row.
    """
    ids, numbers = [], {name: [] for name in table.columns[1:]}
    for start, frame in table.blocks():
        ids.append(table.ids(frame["user_id"], start, whole=not text))
        for name, blocks in numbers.items():
            most = 1 if name == "probability" else np.inf
            blocks.append(table.numbers(frame[name], start, most=most))
    if not ids:
        raise InputError(f"{table.path}: no users")
    users = np.concatenate(ids)
    table.check_once(users, "user_id")
    columns = {name: np.concatenate(blocks) for name, blocks in numbers.items()}
    order = np.argsort(columns.get("rank", np.arange(len(users))), kind="stable")
    probabilities = columns.get("probability")
    return users[order], None if probabilities is None else probabilities[order]


def _lines(audience: Path, outcome: Outcome) -> list[str]:
    """What to print above the tables."""
    ratio, others = outcome.rate_ratio, outcome.others
    lines = [f"{audience}: {outcome.size:,} users, {_told(outcome.shown)}"]
    if not others.users:
        return lines
    lines.append(f"not in the audience: {_told(others)}")
    if ratio is None:
        return [*lines, "ratio of the two rates: unknown, since none or all of a group converted"]
    interval = f"95% interval {ratio.low:.2f} to {ratio.high:.2f}"
    return [*lines, f"ratio of the two rates: {ratio.value:.2f} ({interval})"]


def _told(group: ShownUsers) -> str:
    rate = group.rate
    assert rate is not None  # there are users
    interval = f"95% interval {rate.low:.2%} to {rate.high:.2%}"
    return f"{group.users:,} shown, {group.converts:,} converted ({rate.value:.2%}, {interval})"


def _facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data."""
    groups = {"shown": outcome.shown, "others": outcome.others}
    return {
        "size": outcome.size,
        **{
            name: {**asdict(group), "rate": group.rate and group.rate._asdict()}
            for name, group in groups.items()
        },
        "rate_ratio": outcome.rate_ratio and outcome.rate_ratio._asdict(),
        **gains_facts(outcome.gains, outcome.calibration),
    }
