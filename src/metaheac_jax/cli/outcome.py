"""``metaheac outcome``: how an audience has done."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from metaheac_jax.audience.outcome import Outcome, Shown, audience_outcome
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import audience_table
from metaheac_jax.cli.gains import gains_facts, print_gains
from metaheac_jax.data.campaign_record import Feedback
from metaheac_jax.data.sources.feedback import read_feedback
from metaheac_jax.data.sources.table_file import number
from metaheac_jax.errors import InputError, about
from metaheac_jax.files import write_json


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows how an audience has done: who of its users converted once they were shown the campaign.

    Prints how many users of the audience were shown the campaign and converted, with a 95% interval
    of the rate, and a table by tenth of these users, best first: a ranking is good if the rates
    fall. If the audience has probabilities, predicted and observed rates follow. Users who were
    shown the campaign and are not in the audience are counted apart. If they were chosen at random
    as a control group, the lift is what the model gains: the rate in the audience divided by
    theirs.
    """

    audience: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AUDIENCE")]
    """File of the audience, from `metaheac expand`: .parquet, .csv or .csv.gz."""
    files: Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="FILE ...")]
    """Files that say who was shown the campaign and who converted, as for `metaheac feedback`."""
    out: Path | None = None
    """JSON file to write with all results."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.files:
        raise InputError("outcome: give the files that say who was shown it and who converted")
    if options.out is not None:
        inputs = (options.audience, *options.files)
        terminal.check_output("--out", options.out, *inputs, endings=(".json",))
    ids, probabilities = _read_ranked(options.audience)
    feedback = Feedback.of(ids[:0], np.empty(0, bool))
    for path in options.files:
        feedback = feedback.merge(read_feedback(path, text=True))
    with about(options.audience):
        outcome = audience_outcome(ids, feedback, probabilities=probabilities)
    if options.out is not None:
        write_json(options.out, _facts(outcome))
    screen = terminal.screen()
    terminal.print_lines(screen, *_lines(options.audience, outcome))
    print_gains(screen, outcome.gains, outcome.calibration)


def _read_ranked(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """The user ids of an audience, as text, and their probabilities if it has any.

    Raises:
      InputError: the file cannot be read or has no column ``user_id``; a user occurs twice; or a
        probability is not a number from 0 to 1. The message names the row.
    """
    table = audience_table(path)
    has_probabilities = "probability" in table.names
    if has_probabilities:
        table.columns = ["user_id", "probability"]
    ids, probabilities = [np.empty(0, "S1")], [np.empty(0)]
    for start, frame in table.blocks():
        ids.append(table.ids(frame["user_id"], start, whole=False))
        if has_probabilities:
            value = frame.select(number("probability", frame["probability"].dtype)).to_series()
            wrong = ~value.is_between(0, 1).fill_null(False)
            if wrong.any():
                row = start + int(wrong.arg_max() or 0)
                raise table.fault(row, "probability is not a number from 0 to 1")
            probabilities.append(value.to_numpy())
    users = np.concatenate(ids)
    table.check_once(users, "user_id")
    return users, np.concatenate(probabilities) if has_probabilities else None


def _lines(audience: Path, outcome: Outcome) -> list[str]:
    """What to print above the tables."""
    inside, outside, lift = outcome.inside, outcome.outside, outcome.lift
    lines = [f"{audience}: {outcome.size:,} users, {_told(inside)}"]
    if not outside.users:
        return lines
    lines.append(f"not in the audience: {_told(outside)}")
    if lift is None:
        return lines
    interval = f"95% interval {lift.low:.2f} to {lift.high:.2f}"
    return [*lines, f"lift over these: {lift.value:.2f} ({interval})"]


def _told(shown: Shown) -> str:
    rate = shown.rate
    interval = f"95% interval {rate.low:.2%} to {rate.high:.2%}"
    return f"{shown.users:,} shown, {shown.converts:,} converted ({rate.value:.2%}, {interval})"


def _facts(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data."""
    parts = {"inside": outcome.inside, "outside": outcome.outside}
    return {
        "users": outcome.size,
        **{
            name: {**asdict(own), "rate": own.rate._asdict() if own.users else None}
            for name, own in parts.items()
        },
        "lift": outcome.lift and outcome.lift._asdict(),
        **gains_facts(outcome.gains, outcome.calibration),
    }
