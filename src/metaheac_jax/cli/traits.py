"""``metaheac traits``: what characterises an audience, and what the model used to find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.audience.importance import field_importance
from metaheac_jax.audience.tables import importance_table, sensitive_table, traits_table
from metaheac_jax.audience.traits import (
    MIN_CELL,
    SensitiveShare,
    Trait,
    audience_traits,
    sensitive_shares,
)
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import check_known, has_text, read_attributes, read_user_ids
from metaheac_jax.cli.held_out import open_held_out, read_audience
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_csv


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows which values of users are more common in an audience than among all users.

    Prints the values with the highest and the lowest lift: the fraction of the audience that has
    the value, divided by that of all users. Seeds stand beside them. Sensitive fields of the data
    follow: their values' ratio of these fractions, and that ratio against the field's most selected
    value (adverse impact); below 0.8 is flagged as under, a ratio above 1.25 as over.

    With --model and --attributes it also shows which fields the model uses: a fifth of the seeds is
    held out, the model is customised to the rest, and a field's drop is what the AUC of the
    held-out seeds against users that it has not learned from loses when the field's values are
    shuffled among users.
    """

    audience: Annotated[Path, tyro.conf.Positional]
    """CSV or Parquet file of an audience, from `metaheac expand`."""
    data: Path
    """Folder of the data set, from `metaheac prepare`."""
    seeds: Path
    """File with one seed's user id per line, as for `metaheac expand`."""
    model: Path | None = None
    """Folder of the general model that the audience comes from. Give it with --attributes."""
    attributes: Path | None = None
    """JSON file with the campaign's attributes, as for `metaheac expand`."""
    out: Path | None = None
    """CSV file for all values, sensitive ones last."""
    min_cell: int = MIN_CELL
    """Leave out values that fewer users have; of the seeds and of sensitive values in the audience,
    say "few"."""
    seed: int = 0
    """Seed of the held-out seeds, of fine-tuning and of shuffling, for --model."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--min-cell", options.min_cell, 1)
    terminal.check_minimum("--seed", options.seed, 0)
    if (options.model is None) != (options.attributes is None):
        raise InputError("traits: give --model and --attributes together, or neither")
    if options.out is not None:
        terminal.check_output("--out", options.out)
    screen = terminal.screen()
    terminal.keep_compiled()
    if options.attributes is not None:
        read_attributes(options.attributes)  # what is wrong is reported before the work begins
    used = seen = None
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        text = has_text(data)
        audience = read_audience(options.audience, text=text)
        seeds = read_user_ids(options.seeds, text=text)
        check_known(options.audience, audience, data)
        check_known(options.seeds, seeds, data)
        traits = audience_traits(data, audience, seeds, min_cell=options.min_cell)
        shares = sensitive_shares(data, audience, min_cell=options.min_cell)
        if options.model is not None and options.attributes is not None:
            held_out = open_held_out(
                options.model,
                data,
                options.seeds,
                options.attributes,
                seed=options.seed,
                progress=progress,
            )
            used = field_importance(held_out, data, seed=options.seed, progress=progress)
            seen = held_out.seen
    if options.out is not None:
        header = ("field", "value", "sensitive", "audience", "seeds", "pool", "lift")
        write_csv(options.out, header, _lines(traits, shares))
    terminal.print_lines(
        screen, f"{len(audience):,} users in the audience, {data.num_users:,} in the pool"
    )
    terminal.print_table(screen, traits_table(traits))
    if shares:
        terminal.print_table(screen, sensitive_table(shares))
    if used is not None:
        terminal.print_table(screen, importance_table(used))
    if seen:
        terminal.print_lines(screen, f"note: {seen}")


def _lines(
    traits: Sequence[Trait], shares: Sequence[SensitiveShare]
) -> Iterator[tuple[str | float | None, ...]]:
    for t in traits:
        yield t.field, t.value, "", t.audience, t.seeds, t.pool, t.lift
    for s in shares:
        ratio = None if s.audience is None else s.ratio
        yield s.field, s.value, s.flag or "ok", s.audience, None, s.pool, ratio
