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
    #: Customise to the examples before a time, such as 2026-05-01, and rank the users from then on;
    #: also of the model's own campaigns, if it has fit --until this time or an earlier one.
    since: Annotated[str | None, option("TIME")] = None
    #: Judge this audience instead, from expand, on rows that were added later: how many of its
    #: users converted, by tenths; and, with a control group, how many would have without it.
    audience: Annotated[Path | None, option("FILE")] = None


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.audience.evaluating import (
        audience_outcome,
        control_outcome,
        evaluate,
        group_differences,
        group_means,
    )
    from metaheac_jax.audience.rates import wilson_estimate
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.data.times import parse_time
    from metaheac_jax.model import load

    if options.audience is not None and (options.against or options.since) is not None:
        raise InputError("--audience: not with --against or --since; omit one")
    since = None if options.since is None else parse_time(options.since, "--since")
    terminal.keep_compiled()
    with terminal.progress_display() as progress:
        data = open_dataset(options.data, progress=progress)
        if options.audience is not None:
            gains = audience_outcome(options.audience, data)
            users, converts = gains.select("users", "converts").sum().row(0)
            rate = wilson_estimate(converts, users)
            tables = {
                f"{converts:,} of {users:,} users who were shown it converted: {rate.value:.2%} "
                f"({rate.low:.2%} to {rate.high:.2%}); by tenth of the audience": gains
            }
            lift = control_outcome(options.audience, data)
            notes = [] if lift is None else [lift.summary]
        else:
            general = load(options.model, progress=progress)
            judged = evaluate(general, data, since=since, progress=progress)
            tables = {f"Campaigns that are new to {options.model}": group_means(judged)}
            reasons = Counter(judged["why"].drop_nulls())
            notes = [
                f"note: {terminal.counted(count, 'campaign')} not judged: {why}"
                for why, count in reasons.most_common()
            ]
            if options.against is not None:
                general = load(options.against, progress=progress)
                other = evaluate(general, data, since=since, progress=progress)
                title = f"Differences from {options.against}"
                tables[title] = group_differences(judged, other)
    for title, table in tables.items():
        terminal.print_table(title, table)
    terminal.print_lines(*notes)
