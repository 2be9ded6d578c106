"""``metaheac expand``: from campaigns with seeds to audiences."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaign_choice import ChoiceOptions, check_choice, read_choice, read_ids
from metaheac_jax.cli.terminal import counted, option

if TYPE_CHECKING:
    from metaheac_jax.audience.audience import Audience


@dataclass(frozen=True, kw_only=True)
class Options(ChoiceOptions):
    """Finds the users who are most like a campaign's seeds, for one campaign or for many."""

    #: All campaigns of the data that have seeds and that the model has not seen.
    all_new: bool = False
    #: Number of users in an audience; give this or --percent.
    size: Annotated[int | None, option("N")] = None
    #: Size of an audience as a percentage of its candidates.
    percent: Annotated[float | None, option("P")] = None
    #: Files with ids of users to leave out of these audiences. Those who opted out of everything
    #: belong in the option of that name of prepare and add.
    exclude: Annotated[tuple[Path, ...], option("FILE...")] = ()
    #: Add a column with the probability of converting, at the rate at which users of the pool have
    #: become seeds.
    probability: bool = False
    #: File to write: .parquet, .csv or .csv.gz, with campaign_id, rank, user_id and score. Seeds
    #: are in no audience.
    out: Annotated[Path, option("FILE")]


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.audience.audience import write_frame
    from metaheac_jax.audience.retrieve import check_size, expand_all

    check_choice(options, all_new=options.all_new)
    check_size(options.size, options.percent)
    inputs = (options.seeds, options.attributes, options.pool, *options.exclude)
    terminal.check_output("--out", options.out, *inputs, endings=terminal.TABLE_ENDINGS)
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        chosen = read_choice(options, progress, all_new=options.all_new)
        audiences = expand_all(
            chosen.general,
            chosen.data,
            chosen.campaigns,
            size=options.size,
            percent=options.percent,
            pool=chosen.pool,
            exclude=[own for path in options.exclude for own in read_ids(path, chosen.data)],
            probability=options.probability,
            seed=options.seed,
            progress=progress,
        )
        import polars as pl

        frames = [audience.frame for audience in audiences]
        write_frame(options.out, pl.concat(frames, how="vertical_relaxed"))
    terminal.print_lines(screen, *(f"note: {note}" for note in chosen.notes))
    first, total = audiences[0], counted(sum(map(len, audiences)), "user")
    if len(audiences) == 1:
        told = f"of {counted(first.num_candidates, 'candidate')}"
    else:
        told = f"for {len(audiences):,} campaigns"
    terminal.print_lines(screen, f"{options.out}: {total} {told}")
    if first.campaign_id is not None and len(first):
        terminal.print_lines(screen, f"next: {_explain(options, first)}")


def _explain(options: Options, audience: Audience) -> str:
    """The command that explains an audience."""
    words = ["metaheac", "explain", options.model, options.data]
    words += ["--campaign", audience.campaign_id, "--size", len(audience)]
    words += [] if options.pool is None else ["--pool", options.pool]
    words += [] if options.seed == 0 else ["--seed", options.seed]
    return shlex.join(map(str, [*words, "--out", "page.html"]))
