"""The ``metaheac`` command: one small module per subcommand.

No module here imports jax, polars or the library before its command runs, so help is quick.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib.metadata import version
from typing import Annotated, Any

from tyro.conf import subcommand

from metaheac_jax.cli import add, doctor, evaluate, expand, explain, export, fit, prepare, simulate
from metaheac_jax.cli.terminal import command

Command = (
    Annotated[simulate.Options, subcommand("simulate")]
    | Annotated[prepare.Options, subcommand("prepare")]
    | Annotated[add.Options, subcommand("add")]
    | Annotated[fit.Options, subcommand("fit")]
    | Annotated[expand.Options, subcommand("expand")]
    | Annotated[explain.Options, subcommand("explain")]
    | Annotated[evaluate.Options, subcommand("evaluate")]
    | Annotated[export.Options, subcommand("export")]
    | Annotated[doctor.Options, subcommand("doctor")]
)


_MODULES = (simulate, prepare, add, fit, expand, explain, evaluate, export, doctor)
_MAINS: dict[type, Callable[[Any], None]] = {one.Options: one.main for one in _MODULES}


def dispatch(options: Command) -> None:
    """Runs the subcommand that was chosen."""
    _MAINS[type(options)](options)


def start(options: Command) -> None:
    """Joins the other processes of a job, if there are any; shows the doctor's findings."""
    if isinstance(options, fit.Options):
        fit.join_others(options)
    if isinstance(options, doctor.Options):
        doctor.show()


def main() -> None:
    """Runs ``metaheac``."""
    if sys.argv[1:] == ["--version"]:
        print(f"metaheac {version('metaheac-jax')}, jax {version('jax')}")
        return
    command(
        Command,
        dispatch,
        start=start,
        prog="metaheac",
        description="Look-alike audiences: from a campaign's seed users to the users like them. In "
        "this order:\nprepare, fit, then for a new campaign add, expand and explain.\n\n"
        "Exit codes: 0, done; 2, an error that you can fix, told in one line; 75, another process\n"
        "writes the output, so try again later; 130, stopped. --version alone shows the version.",
    )
