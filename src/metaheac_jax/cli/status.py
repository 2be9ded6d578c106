"""``metaheac status``: what a folder holds, and what it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro

from metaheac_jax.audience.tables import TextTable
from metaheac_jax.audience.workspace import Item, Unfinished, find_items, find_unfinished
from metaheac_jax.cli import terminal
from metaheac_jax.errors import InputError

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@dataclass(frozen=True)
class Options:
    """Shows the data sets, models, campaigns, exports and audiences in a folder, and their lineage.

    Also shows what is being written, what is damaged, and what interrupted commands have left
    behind. Checksums are not verified here; each command verifies those of the files it reads. The
    exit code is 3 if something that is here is damaged, and 0 if not.
    """

    folder: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="[FOLDER]")] = Path()
    """Folder to look in, with its subfolders; by default the current one."""
    json: bool = False
    """Print JSON for other programs: {"items": [...], "unfinished": [...]}."""


def main(options: Options) -> int:
    """Runs the command; returns its exit code."""
    if not options.folder.is_dir():
        raise InputError(f"{options.folder}: no such folder")
    items, unfinished = find_items(options.folder), find_unfinished(options.folder)
    if options.json:
        print(json.dumps(_facts(items, unfinished, options.folder), indent=1))
    else:
        _print_text(items, unfinished, options.folder)
    return terminal.FAULTS if any(map(_damage, items)) else 0


def _print_text(items: Sequence[Item], unfinished: Sequence[Unfinished], folder: Path) -> None:
    screen = terminal.screen()
    if items:
        terminal.print_table(screen, items_table(items, folder))
    else:
        terminal.print_lines(screen, f"{folder}: no data set, model, campaign or audience")
    lines = (f"{path.relative_to(folder)}: {advice}" for path, advice in unfinished)
    terminal.print_lines(screen, *lines)


def items_table(items: Sequence[Item], folder: Path) -> TextTable:
    """A table with a row per item; paths are relative to the folder."""
    names = _names(items, folder)
    rows = [
        [
            str(item.path.relative_to(folder)),
            item.kind,
            item.trouble or item.about,
            ", ".join(_lineage(item, names)),
            _state(item),
            datetime.fromtimestamp(item.modified).strftime("%Y-%m-%d %H:%M"),
            _size(item.size),
        ]
        for item in items
    ]
    header = ["name", "kind", "what", "made from", "state", "written", "size"]
    return TextTable(str(folder.resolve()), header, rows, 6)


def _facts(items: Sequence[Item], unfinished: Sequence[Unfinished], folder: Path) -> dict[str, Any]:
    """Items and unfinished work as plain data; paths are relative to the folder."""
    names = _names(items, folder)
    found = [
        {
            "path": str(item.path.relative_to(folder)),
            "kind": item.kind,
            "about": item.about,
            "damage": _damage(item),
            "writer": item.writer,
            "made_from": _lineage(item, names),
            "digest": item.digest or None,
            "modified": datetime.fromtimestamp(item.modified, UTC).isoformat(timespec="seconds"),
            "bytes": item.size,
        }
        for item in items
    ]
    rest = [{"path": str(p.relative_to(folder)), "advice": advice} for p, advice in unfinished]
    return {"items": found, "unfinished": rest}


def _names(items: Sequence[Item], folder: Path) -> dict[str, str]:
    """The path of each manifest's item by the manifest's digest."""
    return {item.digest: str(item.path.relative_to(folder)) for item in items if item.digest}


def _lineage(item: Item, names: Mapping[str, str]) -> list[str]:
    """Names of the parents that are in the folder; for the others, what is known about them."""

    def unknown(name: str, digest: str) -> str:
        return f"{name} (changed or gone)" if name else f"not in this folder ({digest[:8]})"

    return [names.get(digest) or unknown(name, digest) for name, digest in item.parents]


def _state(item: Item) -> str:
    if item.writer:
        return f"{item.writer} is writing it"
    return "damaged" if item.trouble else ""


def _damage(item: Item) -> str | None:
    """What is wrong with an item that no process is writing; None if nothing is."""
    return item.trouble if item.trouble and not item.writer else None


def _size(size: float) -> str:
    power = 0
    while size >= 1024 and power < len(_UNITS) - 1:
        size, power = size / 1024, power + 1
    return f"{size:.0f} {_UNITS[power]}"
