"""``metaheac traits``: what characterises an audience, and what the model used to find it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
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
from metaheac_jax.cli.campaigns import (
    check_known,
    check_readable,
    has_text,
    read_audience,
    read_excluded,
    read_seeds,
)
from metaheac_jax.cli.held_out_seeds import OpenedCampaign, check_campaign_files, open_campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import write_csv
from metaheac_jax.progress import Progress


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows which values of users are more common in an audience than in the pool.

    The pool is all users who could be in the audience: all except those of --exclude, those whom a
    campaign's folder leaves out, and the seeds; if a seed is in the audience, seeds are in the pool
    too. Converts who are in the audience are in the pool. Prints the values with the highest and
    the lowest lift: the fraction of the audience that has the value, divided by that of the pool.
    The fraction of the seeds is shown beside them. Sensitive fields of the data follow: the ratio
    of the same two fractions per value, and the adverse impact: how likely users with the value are
    to be selected, divided by the same for the field's most selected value. A value is flagged as
    under if either is below 0.8 (the four-fifths rule), and as over if the ratio is above 1.25.
    Adverse impact is "at most" a number if too few users of the audience have the value, or the
    value that may be the most selected.

    With --model it also shows which fields the model uses. A fifth of the seeds is held out, and
    the model is customised to the rest. The AUC then says how well it tells held-out seeds from
    users whom it has not learned from. A field's drop is the loss of AUC when the field's values
    are shuffled among users.
    """

    audience: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="AUDIENCE")]
    """CSV or Parquet file of an audience, from `metaheac expand`."""
    data: Path
    """Folder of the data set, from `metaheac prepare`."""
    seeds: Path | None = None
    """File with the seeds' user ids, as for `metaheac expand`. Needed unless --model is a campaign,
    which has them."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users who could not be in the audience, for example users who opted out, as
    for `metaheac expand`. With --model, nothing is learned from them."""
    model: Path | None = None
    """Folder of what the audience comes from: a general model, with --attributes; or a campaign,
    whose seeds then include the converts of its feedback; these are not held out."""
    attributes: Path | None = None
    """With a general model: JSON file with the campaign's attributes, as for `metaheac expand`."""
    out: Path | None = None
    """CSV file to write with all values, sensitive ones last. Of these the column `sensitive` says
    ok, under or over (the four-fifths rule and its reciprocal), or unknown if too few users have a
    value to tell; `impact` is the adverse-impact ratio, if it is known."""
    min_cell: int = MIN_CELL
    """Leave out values that fewer users than this have. For seeds, and for sensitive values in the
    audience, print "few" instead of the fraction."""
    seed: int = 0
    """With --model, random seed for the held-out seeds, for the random non-seeds of a new campaign,
    for customising and for shuffling."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--min-cell", options.min_cell, 1)
    terminal.check_minimum("--seed", options.seed, 0)
    if options.model is not None:
        check_campaign_files("traits", options.model, options.seeds, options.attributes)
    elif options.seeds is None or options.attributes is not None:
        raise InputError(
            "traits: give --seeds; or also --model and --attributes; or a campaign as --model alone"
        )
    for path in filter(None, (options.seeds, *options.exclude)):
        check_readable(path)  # a file that cannot be read is reported before the work begins
    if options.out is not None:
        inputs = (options.audience, options.seeds, options.attributes, *options.exclude)
        terminal.check_output("--out", options.out, *inputs, endings=(".csv",))
    screen = terminal.screen()
    terminal.keep_compiled()
    used = None
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        text = has_text(data)
        audience = read_audience(options.audience, text=text)
        check_known(options.audience, audience, data)
        excluded, notes = read_excluded(options.exclude, data)
        opened = None if options.model is None else _open(options, data, excluded, progress)
        if options.seeds is not None:
            seeds = read_seeds(options.seeds, text=text)
            check_known(options.seeds, seeds, data)
            converts = seeds[:0]
        else:
            assert opened is not None  # checked above
            seeds, converts, excluded = opened.given_seeds, opened.converts, opened.excluded_ids
        audience, gone = _without(audience, excluded, "users of the audience")
        if gone:
            notes.append(f"{gone:,} users of the audience are excluded and were removed from it")
        left_out = _left_out(data, audience, seeds, converts, excluded)
        seeds, gone = _without(seeds, excluded, "seeds")
        if gone:
            notes.append(f"{gone:,} seeds are excluded and count neither as seeds nor in the pool")
        least = options.min_cell
        seeds = np.union1d(seeds, converts)
        traits = audience_traits(data, audience, seeds, exclude=left_out, min_cell=least)
        shares = sensitive_shares(data, audience, exclude=left_out, min_cell=least)
        if opened is not None:
            held_out, more = opened.hold_out(seed=options.seed, progress=progress)
            used = field_importance(held_out, data, seed=options.seed, progress=progress)
            notes += [*opened.notes, *more]
    if options.out is not None:
        header = ("field", "value", "sensitive", "audience", "seeds", "pool", "lift", "impact")
        write_csv(options.out, header, _lines(traits, shares))
    num_pool = data.num_users - len(left_out)
    found = np.unique(data.find_users(audience))
    num_users = int((found >= 0).sum())
    num_ids = len(np.unique(audience))
    if num_users < num_ids:
        notes.append(f"{num_users:,} of {num_ids:,} ids of the audience are users of the data")
    terminal.print_lines(screen, f"{num_users:,} users in the audience, {num_pool:,} in the pool")
    terminal.print_table(screen, traits_table(traits))
    if shares:
        terminal.print_table(screen, sensitive_table(shares))
    if used is not None:
        terminal.print_table(screen, importance_table(used))
    terminal.print_lines(screen, *(f"note: {note}" for note in notes))


def _open(
    options: Options, data: Dataset, excluded: np.ndarray, progress: Progress
) -> OpenedCampaign:
    assert options.model is not None
    return open_campaign(
        options.model,
        data,
        options.seeds,
        options.attributes,
        exclude=excluded,
        seed=options.seed,
        progress=progress,
    )


def _without(users: np.ndarray, excluded: np.ndarray, what: str) -> tuple[np.ndarray, int]:
    """Users without the excluded ones, and how many of them there were."""
    gone = np.isin(users, excluded)
    if len(gone) and gone.all():
        raise InputError(f"all {what} are excluded; exclude fewer, or give other {what}")
    return users[~gone], int(gone.sum())


def _left_out(
    data: Dataset,
    audience: np.ndarray,
    seeds: np.ndarray,
    converts: np.ndarray,
    excluded: np.ndarray,
) -> np.ndarray:
    """Ids of users not in the pool: the excluded, the seeds, and converts who became seeds later.

    The seeds are in the pool if one of them is in the audience, and converts who are in it.
    """
    left_out = [excluded, converts[~np.isin(converts, audience)]]
    left_out += [] if np.isin(seeds, audience).any() else [seeds]
    left_out = np.unique(np.concatenate(left_out))
    return left_out[data.find_users(left_out) >= 0]


def _lines(
    traits: Sequence[Trait], shares: Sequence[SensitiveShare]
) -> Iterator[tuple[str | float | None, ...]]:
    for t in traits:
        yield t.field, t.value, "", t.audience, t.seeds, t.pool, t.lift, None
    for s in shares:
        ratio = None if s.audience is None else s.ratio
        impact = None if s.bounded else s.impact
        flag = s.flag or ("unknown" if s.bounded else "ok")
        yield s.field, s.value, flag, s.audience, None, s.pool, ratio, impact
