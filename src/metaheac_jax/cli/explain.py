"""``metaheac explain``: a page on a campaign's audience."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaign_choice import ChoiceOptions, check_choice, read_choice
from metaheac_jax.cli.terminal import option
from metaheac_jax.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Options(ChoiceOptions):
    """Writes a page on a campaign's audience: which size, who they are, what the model uses."""

    #: Id of the campaign, as for expand.
    campaign: Annotated[tuple[str, ...], option("ID")] = ()
    #: Number of users in the audience that is described; by default 5% of its candidates.
    size: Annotated[int | None, option("N")] = None
    #: File to write: .html, a page to read and print, or .json, the same as numbers. It has a curve
    #: of audience sizes with the expected lift, estimated from seeds that were held out in turn;
    #: traits of the audience; fields that the model uses; and sensitive fields.
    out: Annotated[Path, option("FILE")]


def main(options: Options) -> None:
    """Runs the command."""
    check_choice(options)
    if len(options.campaign) > 1:
        raise InputError("--campaign: a page is about one campaign; give one")
    if options.size is not None:
        terminal.check_minimum("--size", options.size, 1)
    inputs = (options.seeds, options.attributes, options.pool)
    terminal.check_output("--out", options.out, *inputs, endings=(".html", ".json"))
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        from metaheac_jax.audience.explanation import explain
        from metaheac_jax.files import write_json, write_text

        chosen = read_choice(options, progress)
        explanation = explain(
            chosen.general,
            chosen.data,
            chosen.campaigns[0],
            size=options.size,
            pool=chosen.pool,
            seed=options.seed,
            progress=progress,
        )
        if options.out.suffix.lower() == ".html":
            write_text(options.out, explanation.html())
        else:
            write_json(options.out, explanation.to_json())
    terminal.print_lines(
        screen,
        *(f"note: {note}" for note in chosen.notes),
        f"{options.out}: {explanation.summary}",
    )
