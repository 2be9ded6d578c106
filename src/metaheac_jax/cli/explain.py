"""``metaheac explain``: a page on a campaign's audience."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import option


@dataclass(frozen=True, kw_only=True)
class Options:
    """Writes a page on a campaign's audience: which size, who they are, what the model uses."""

    #: Folder of a general model, from fit.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Id of the campaign, as for expand.
    campaign: Annotated[str, option("ID")]
    #: Number of users in the audience that is described; by default 5% of its candidates.
    size: Annotated[int | None, option("N")] = None
    #: File with ids of the only users who may be in the audience, as for expand.
    pool: Annotated[Path | None, option("FILE")] = None
    #: File to write: .html, a page to read and print, or .json, the same as numbers. It has a curve
    #: of audience sizes with the expected lift, estimated from seeds that were held out in turn;
    #: traits of the audience; fields that the model uses; and sensitive fields.
    out: Annotated[Path, option("FILE")]


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.audience.explaining import explain
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.files import write_json, write_text
    from metaheac_jax.model import load

    inputs = (options.model, options.data, options.pool)
    terminal.check_output("--out", options.out, *inputs, endings=(".html", ".json"))
    terminal.keep_compiled()
    with terminal.progress_display() as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        wanted = {"size": options.size, "pool": options.pool}
        explanation = explain(general, data, options.campaign, **wanted, progress=progress)
        if options.out.suffix.lower() == ".html":
            write_text(options.out, explanation.html())
        else:
            write_json(options.out, explanation.to_json())
    notes = [f"note: {explanation.caution}"] if explanation.caution else []
    terminal.print_lines(*notes, f"{options.out}: {explanation.summary}")
