"""``metaheac expand``: from seed users to an audience."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from metaheac_jax.audience.retrieve import audience_size, expand
from metaheac_jax.cli import terminal
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_of
from metaheac_jax.model import load

MANY = 1000  # seeds, below which an audience is less reliable


@dataclass(frozen=True, kw_only=True)
class Options:
    """Finds the users who are most like a campaign's seeds.

    Customises a general model to the seeds, scores every user of the data and writes the best ones
    as rank,user_id,score. The seeds themselves are left out.
    """

    model: Annotated[Path, tyro.conf.Positional]
    """Folder of a general model, from `metaheac fit`."""
    data: Path
    """Folder of the data set whose users are the pool, from `metaheac prepare`."""
    seeds: Path
    """File with one seed's user id per line; a header line is allowed."""
    attributes: Path
    """JSON file with the campaign's attributes, one per campaign field of the data:
    {"advertiserId": 42, "productType": 3, ...}."""
    out: Path
    """CSV file to write."""
    size: int | None = None
    """Number of users in the audience. Give this or --percent."""
    percent: float | None = None
    """Size of the audience as a percentage of all users."""
    include_seeds: bool = False
    """Let seeds be in the audience."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users who may not be in the audience, for example who opted out."""
    least_seeds: int = 100
    """Refuse to work with fewer seeds than this among the data's users."""
    seed: int = 0
    """Seed of the random non-seeds and of fine-tuning."""


def main(options: Options) -> None:
    """Runs the command."""
    if (options.size is None) == (options.percent is None):
        raise InputError("expand: give either --size or --percent")
    audience_size(options.size, options.percent, 1)
    terminal.check_minimum("--seed", options.seed, 0)
    terminal.check_output("--out", options.out)
    screen = terminal.screen()
    terminal.keep_compiled()
    attributes = read_attributes(options.attributes)
    for path in (options.seeds, *options.exclude):
        _read_text(path)  # a file that cannot be read is reported before the work begins
    with terminal.progress_display(screen) as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        general.check_data(data)
        text = data.user_key.dtype.kind == "S"
        seeds = read_user_ids(options.seeds, text=text)
        excluded = [read_user_ids(path, text=text) for path in options.exclude]
        campaign = data.new_campaign(seeds, attributes, seed=options.seed)
        found = len(campaign.seeds)
        if found < options.least_seeds:
            raise InputError(
                f"{options.seeds}: {found} of {len(seeds)} seeds are users of the data, fewer than "
                f"--least-seeds {options.least_seeds}; give more seeds"
            )
        method = method_of(general)
        [model] = method.customise(general, data, [campaign], seed=options.seed, progress=progress)
        audience = expand(
            model,
            data,
            size=options.size,
            percent=options.percent,
            include_seeds=options.include_seeds,
            exclude=[user_id for ids in excluded for user_id in ids],
            progress=progress,
        )
        audience.write_csv(options.out)
    rate = found / (found + campaign.num_unmatched)
    lines = [
        f"seeds: {len(seeds):,} given, {found + campaign.num_unmatched:,} distinct, {found:,} of "
        f"them users of the data ({rate:.0%})"
    ]
    if found < MANY:
        lines.append(f"note: with fewer than {MANY:,} seeds an audience is less reliable")
    if campaign.unknown_attributes:
        names = ", ".join(campaign.unknown_attributes)
        lines.append(f"note: training has not seen these values of the campaign: {names}")
    lines.append(
        f"{options.out}: {len(audience):,} users of {audience.num_candidates:,} candidates"
    )
    for line in lines:
        screen.print(line, soft_wrap=True, highlight=False, markup=False)


def read_user_ids(path: Path, *, text: bool = False) -> list[int] | list[str]:
    """User ids, one per line.

    Args:
      path: of the file.
      text: whether ids are text. Then a first line ``user_id`` is a header; otherwise a first line
        that is not a number is one.

    Raises:
      InputError: the file cannot be read, is empty, or a line is not a whole number; it is named.
    """
    lines = [line.strip() for line in _read_text(path).splitlines()]
    if lines and (lines[0].lower() == "user_id" if text else not _is_whole(lines[0])):
        lines[0] = ""
    for number, line in enumerate(lines, start=1):
        if line and not text and not _is_whole(line):
            raise InputError(f"{path}:{number}: expected one user id, got {line[:40]!r}")
    ids = [line for line in lines if line]
    if not ids:
        raise InputError(f"{path}: no user ids; write one per line")
    return ids if text else list(map(int, ids))


def read_attributes(path: Path) -> dict[str, Any]:
    """A campaign's attributes from a JSON file.

    Raises:
      InputError: the file cannot be read or is not a JSON object.
    """
    try:
        attributes = json.loads(_read_text(path))
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(attributes, dict):
        raise InputError(f'{path}: expected a JSON object such as {{"advertiserId": 42}}')
    return attributes


def _is_whole(text: str) -> bool:
    digits = text.strip().removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 20):
        return False
    return -(2**63) <= int(text) < 2**63


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not a text file; save it as UTF-8") from error
