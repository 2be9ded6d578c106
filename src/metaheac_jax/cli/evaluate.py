"""``metaheac evaluate``: how good a model's audiences are, and how an audience has done."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options:
    """Judges a model on campaigns that it was not trained on, or an audience on its answers.

    Each is customised from its rows of stage 1, as expand does it; its users of stage 2 are ranked.
    """

    #: Folder of a general model, from fit, best with --leave-out.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Folder of another model: the differences on the campaigns that are new to both.
    against: Annotated[Path | None, option("MODEL")] = None
    #: Judge this audience instead, from expand, on rows that were added later: how many of its
    #: users converted, by tenths.
    audience: Annotated[Path | None, option("FILE")] = None


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.audience.evaluation import evaluate
    from metaheac_jax.audience.outcome import audience_outcome
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.model import load

    if options.audience is not None and options.against is not None:
        raise InputError("--audience: not with --against; omit one")
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        if options.audience is not None:
            outcome, notes = audience_outcome(options.audience, data), []
            tables = {
                "Users who were shown the campaign": outcome.rates,
                "Converts by tenth of the audience": outcome.gains,
            }
        else:
            result = evaluate(load(options.model, progress=progress), data, progress=progress)
            title = f"{result.method}; small seed sets have at most {result.threshold:,} seeds"
            tables = {title: result.means()}
            reasons = Counter(own["why"] for own in result.left_out)
            notes = [
                f"note: {terminal.counted(count, 'campaign')} not judged: {why}"
                for why, count in reasons.most_common()
            ]
            if options.against is not None:
                general = load(options.against, progress=progress)
                other = evaluate(general, data, progress=progress)
                tables[f"Differences from {options.against}"] = result.differences(other)
    for title, table in tables.items():
        terminal.print_lines(screen, "")
        terminal.print_table(screen, title, table)
    terminal.print_lines(screen, *notes)
