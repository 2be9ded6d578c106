"""The ``metaheac`` command: one small module per subcommand."""

from __future__ import annotations

import sys
from typing import Annotated

import tyro

from metaheac_jax.cli import (
    curve,
    customise,
    evaluate,
    expand,
    export,
    feedback,
    fit,
    outcome,
    overlap,
    prepare,
    simulate,
    status,
    terminal,
    traits,
    update,
)
from metaheac_jax.cli.devices import join_others

Command = (
    Annotated[simulate.Options, tyro.conf.subcommand("simulate")]
    | Annotated[prepare.Options, tyro.conf.subcommand("prepare")]
    | Annotated[fit.Options, tyro.conf.subcommand("fit")]
    | Annotated[customise.Options, tyro.conf.subcommand("customise")]
    | Annotated[expand.Options, tyro.conf.subcommand("expand")]
    | Annotated[export.Options, tyro.conf.subcommand("export")]
    | Annotated[feedback.Options, tyro.conf.subcommand("feedback")]
    | Annotated[update.Options, tyro.conf.subcommand("update")]
    | Annotated[outcome.Options, tyro.conf.subcommand("outcome")]
    | Annotated[curve.Options, tyro.conf.subcommand("curve")]
    | Annotated[traits.Options, tyro.conf.subcommand("traits")]
    | Annotated[overlap.Options, tyro.conf.subcommand("overlap")]
    | Annotated[evaluate.Options, tyro.conf.subcommand("evaluate")]
    | Annotated[status.Options, tyro.conf.subcommand("status")]
)


def dispatch(options: Command) -> int | None:
    """Runs the subcommand that was chosen: the ``main`` in the module of its options.

    Returns its exit code; None means 0.
    """
    return sys.modules[type(options).__module__].main(options)


def start(options: Command) -> None:
    """Joins the job's other processes, if there are any, before jax starts."""
    if isinstance(options, fit.Options | expand.Options):
        join_others(options.devices)


def main() -> None:
    """Runs ``metaheac``."""
    terminal.command(
        Command,
        dispatch,
        start=start,
        prog="metaheac",
        description="Look-alike audiences: from a campaign's seed users to the users like them. "
        "For help on a subcommand: metaheac SUBCOMMAND --help. Exit codes: 0, done; 2, an error "
        "that you can fix, told in one line; 3, done, but campaigns were left out "
        "(--skip-unusable) or something is damaged (status); 75, another process is writing the "
        "output, so try again later; 129, 130 and 143, stopped.",
    )
