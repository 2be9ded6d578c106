"""``metaheac status``: what a folder holds, and what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.audience.tables import TextTable
from metaheac_jax.audience.workspace import Item, find_items, find_unfinished
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Options:
    """Shows the data sets, models, campaigns, exports and audiences in a folder, and their lineage.

    Also shows what is being written, what is damaged, and what interrupted commands have left
    behind. Checksums are not verified here; each command verifies those of the files it reads.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = Path()
    """Folder to look in, with its subfolders; by default the current one."""


def main(options: Options) -> None:
    """Runs the command."""
    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder")
    screen = terminal.screen()
    items = find_items(options.folder)
    if items:
        terminal.print_table(screen, items_table(items, options.folder))
    else:
        terminal.print_lines(screen, f"{options.folder}: no data set, model, campaign or audience")
    for path, advice in find_unfinished(options.folder):
        terminal.print_lines(screen, f"{path.relative_to(options.folder)}: {advice}")


def items_table(items: Sequence[Item], folder: Path) -> TextTable:
    """A table with a row per item; paths are relative to the folder."""
    names = {item.digest: str(item.path.relative_to(folder)) for item in items if item.digest}
    rows = [
        [
            str(item.path.relative_to(folder)),
            item.kind,
            item.trouble or item.about,
            _lineage(item, names),
            _state(item),
            datetime.fromtimestamp(item.modified).strftime("%Y-%m-%d %H:%M"),
            _size(item.size),
        ]
        for item in items
    ]
    header = ["name", "kind", "what", "made from", "state", "written", "size"]
    return TextTable(str(folder.resolve()), header, rows, 6)


def _lineage(item: Item, names: Mapping[str, str]) -> str:
    """Names of the parents that are in the folder; for the others, what is known about them."""

    def unknown(name: str, digest: str) -> str:
        return f"{name} (changed or gone)" if name else f"not in this folder ({digest[:8]})"

    known = (names.get(digest) or unknown(name, digest) for name, digest in item.parents)
    return ", ".join(known)


def _state(item: Item) -> str:
    if item.writer:
        return f"{item.writer} is writing it"
    return "damaged" if item.trouble else ""


def _size(size: float) -> str:
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} {_UNITS[power]}"
