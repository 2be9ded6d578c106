"""A workspace: a folder with data sets, models, campaigns and audiences.

They are found by their manifests. There is no other record, so each may be copied, moved or deleted
separately. A manifest holds the digests of the manifests that its folder was made from. The
manifest of an audience is NAME.json next to the file NAME, or audiences.json in a folder of many.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from metaheac_jax import model
from metaheac_jax.audience import campaign_folder
from metaheac_jax.customise import export
from metaheac_jax.data import storage
from metaheac_jax.data.sources.table_file import ENDINGS, first_line
from metaheac_jax.errors import InputError
from metaheac_jax.files import LEFTOVER, remove_at_once, writer_of
from metaheac_jax.methods import METHODS
from metaheac_jax.sealed import Parent, check_size, read_manifest, read_sealed, read_undisturbed

#: Suffixes of folder names: of a training, and of the campaigns that a command customises while it
#: makes their audiences.
TRAINING, CUSTOMISED = ".training", ".customised"
#: Names in such folders. Each network of an ensemble has a folder in that of its campaigns.
_OF_WORK = {
    TRAINING: re.compile(r"checkpoints(\.json)?|log\.jsonl"),
    CUSTOMISED: re.compile("|".join([r"[0-9a-f]{32}-[0-9a-f]{64}\.npz", *METHODS])),
}
_OF_WRITERS = re.compile(rf"\..*\.lock|{LEFTOVER.pattern}")
#: The manifest of a folder of audiences, and the format of every manifest of audiences.
AUDIENCES, AUDIENCES_FORMAT = "audiences.json", "metaheac_jax audiences 1"
_AUDIENCE = {"rank", "user_id", "score"}  # columns of an audience's file
_REMEDY = "make it again"


@dataclass(frozen=True)
class Item:
    """Something in a workspace.

    Attributes:
      path: path of its folder or file.
      kind: name of its kind.
      about: description of its content.
      digest: digest of its manifest; empty if it has none.
      parents: what it was made from.
      modified: time when it was written, in seconds since 1970.
      size: number of bytes on disk.
      trouble: what is wrong with it; empty if nothing is.
      writer: the process that is writing it, or None.
    """

    path: Path
    kind: str
    about: str
    digest: str
    parents: tuple[Parent, ...]
    modified: float
    size: int
    trouble: str
    writer: str | None


class Unfinished(NamedTuple):
    """A file or folder of a command that has not finished.

    Attributes:
      path: its path.
      advice: what it is and how to continue.
    """

    path: Path
    advice: str


def is_work_folder(folder: Path) -> bool:
    """Whether a command keeps its work in a folder: by the names of the folder and of all in it."""
    return foreign_in(folder) is None


def foreign_in(folder: Path) -> Path | None:
    """Something in a folder that is not of a command's work; the folder itself if it is for none.

    A training writes ``checkpoints.json`` before any checkpoint, so ``checkpoints`` without it are
    foreign.
    """
    own = _OF_WORK.get(folder.suffix)
    try:
        names = sorted(path.name for path in folder.iterdir()) if own else []
        checkpoints = any((folder / "checkpoints").iterdir()) if "checkpoints" in names else False
    except OSError:  # it is no folder, cannot be read, or is gone by now
        return folder
    if own is None:
        return folder
    if checkpoints and "checkpoints.json" not in names:
        return folder / "checkpoints"
    others = (n for n in names if not own.fullmatch(n) and not _OF_WRITERS.fullmatch(n))
    return next((folder / name for name in others), None)


def remove_work(folder: Path) -> None:
    """Removes a folder of a command's work at once, unless something else has come into it.

    A training of which a part is left would be taken for one to continue.
    """
    if is_work_folder(folder):
        remove_at_once(folder, folder.with_suffix(""))


def find_items(folder: Path) -> list[Item]:
    """The data sets, models, campaigns and audiences of a workspace, by path.

    Manifests and the sizes of the files that they name are checked; checksums of files are not.
    """
    items = []
    for directory, names, kinds in _walk(folder):
        items += [
            read_undisturbed(directory, kind.manifest, partial(_folder_item, directory, kind))
            for kind in kinds
        ]
        if not kinds:
            items += _audience_items(directory, names)
    return sorted(items, key=lambda item: item.path)


def find_unfinished(folder: Path) -> list[Unfinished]:
    """Files and folders that running, interrupted or killed commands have left in a workspace.

    Hidden and unfinished folders are not entered.
    """
    found = []
    for directory, folders, names in os.walk(folder):
        for path in filter(is_work_folder, (Path(directory, name) for name in folders)):
            target = path.with_suffix("")
            if path.suffix == TRAINING:
                advice = (
                    "an interrupted training; continue with metaheac fit DATA "
                    f"{shlex.quote(str(target))} --resume "
                    "and the same options as before, or delete the folder"
                )
            else:
                advice = (
                    "campaigns that an interrupted command, such as metaheac expand, has "
                    "customised; run the same command again to continue, or delete the folder"
                )
            found.append(_unfinished(path, target, advice))
        for name in [*folders, *names]:
            if leftover := LEFTOVER.fullmatch(name):
                target = Path(directory, leftover["name"])
                advice = (
                    f"left by a killed command; the next one that writes {target.name} removes it"
                )
                found.append(_unfinished(Path(directory, name), target, advice))
        folders[:] = [name for name in folders if not _is_passed_over(Path(directory, name))]
    return sorted(found)


def _unfinished(path: Path, target: Path, advice: str) -> Unfinished:
    writer = writer_of(target)
    return Unfinished(path, f"{writer} is writing it" if writer else advice)


def _is_passed_over(folder: Path) -> bool:
    """Whether a folder is hidden, or belongs to a command that has not finished."""
    return folder.name.startswith(".") or is_work_folder(folder)


class _Kind(NamedTuple):
    """A kind of folder: its manifest, the format, and what to read from a manifest."""

    name: str
    manifest: str
    format: str
    about: Callable[[Mapping[str, Any]], str]
    parents: tuple[str, ...]  # manifest keys of a digest, or of a list of names and digests


def _about_data(body: Mapping[str, Any]) -> str:
    return f"{body['name']}: {body['users']:,} users, {body['campaigns']:,} campaigns"


def _about_model(body: Mapping[str, Any]) -> str:
    width, campaigns = body["settings"]["width"], len(body["campaigns"])
    about = f"{body['method']}, k = {width}, trained on {campaigns:,} campaigns"
    if body["judgements"]:
        about += f", held-out AUC {max(auc for _, auc, *_ in body['judgements']):.4f}"
    return f"{about}, seed {body['seed']}"


def _about_campaign(body: Mapping[str, Any]) -> str:
    known, about = body["known"], f"{body['seeds']:,} seeds"
    if known["shown"]:
        about += f", feedback on {known['shown']:,} users"
    if known["excluded"]:
        about += f", {known['excluded']:,} users excluded"
    return about if body["learned"] == known else f"{about}, not up to date: metaheac update"


def _about_export(body: Mapping[str, Any]) -> str:
    return f"{body['method']}, {body['campaign']}"


_KINDS = (
    _Kind("data set", storage.MANIFEST, storage.FORMAT, _about_data, ()),
    _Kind("model", model.MANIFEST, model.FORMAT, _about_model, ("data_digest", "parent", "added")),
    _Kind(
        "campaign",
        campaign_folder.MANIFEST,
        campaign_folder.FORMAT,
        _about_campaign,
        ("model_digest",),
    ),
    _Kind("export", export.MANIFEST, export.FORMAT, _about_export, ("made_from", "model_digest")),
)


def _walk(folder: Path) -> Iterator[tuple[Path, list[str], list[_Kind]]]:
    """Yields folders, their file names and what items they are.

    It does not enter items, hidden and unfinished folders.

    A folder that is a link out of the workspace is yielded, but not entered, since links may form a
    loop.
    """
    root = folder.resolve()
    for directory, folders, names in os.walk(folder):
        kinds = _kinds_of(Path(directory))
        yield Path(directory), names, kinds
        folders[:] = [
            name for name in folders if not kinds and not _is_passed_over(Path(directory, name))
        ]
        for link in filter(os.path.islink, (Path(directory, name) for name in folders)):
            outside = root not in link.resolve().parents
            for _, _, linked in islice(os.walk(link), int(outside)):
                yield link, linked, _kinds_of(link)


def _kinds_of(directory: Path) -> list[_Kind]:
    """The kinds of items that a folder is, by its manifests."""
    return [kind for kind in _KINDS if _is_manifest(directory / kind.manifest)]


def _is_manifest(path: Path) -> bool:
    """Whether a file is a manifest of this package, damaged or not; others use such names too."""
    if not path.is_file():
        return False
    try:
        body = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return True
    return not isinstance(body, dict) or str(body.get("format")).startswith("metaheac_jax ")


def _folder_item(directory: Path, kind: _Kind) -> Item:
    about, digest, parents, trouble = "", "", (), ""
    try:
        body = read_sealed(
            directory, kind.manifest, format=kind.format, remedy=_REMEDY, verify=False
        )
        about, digest = kind.about(body), body["digest"]
        parents = tuple(parent for key in kind.parents for parent in _parents(body.get(key)))
    except InputError as error:
        trouble = str(error)
    files = [path for path in directory.rglob("*") if path.is_file()]
    return Item(
        path=directory,
        kind=kind.name,
        about=about,
        digest=digest,
        parents=parents,
        modified=(directory / kind.manifest).stat().st_mtime,
        size=sum(path.stat().st_size for path in files),
        trouble=trouble,
        writer=writer_of(directory),
    )


def _parents(entry: str | list[dict[str, Any]] | None) -> list[Parent]:
    if isinstance(entry, str):
        return [Parent("", entry)]
    return [Parent(parent["name"], parent["digest"]) for parent in entry or []]


def _scan(path: Path) -> pl.LazyFrame:
    scan = pl.scan_parquet if path.suffix == ".parquet" else pl.scan_csv
    return scan(path, glob=False)


def _has_columns(path: Path) -> bool:
    """Whether a file has the columns of an audience."""
    try:
        return set(_scan(path).collect_schema().names()) >= _AUDIENCE
    except (OSError, pl.exceptions.PolarsError):
        return False


class _Record(NamedTuple):
    """What a manifest says about the files of audiences that it names.

    Attributes:
      files: entry of each file, as in `sealed.seal`.
      parents: what each file was made from.
      trouble: what is wrong with the manifest; empty if nothing is.
    """

    files: Mapping[str, Mapping[str, Any]] = {}
    parents: Mapping[str, tuple[Parent, ...]] = {}
    trouble: str = ""


def _read_record(path: Path) -> _Record:
    try:
        body = read_manifest(path, format=AUDIENCES_FORMAT, remedy=_REMEDY)
    except InputError as error:
        return _Record(trouble=str(error))
    shared, files = body["made_from"], body["files"]
    own = {entry["file"]: entry.get("made_from", []) for entry in body.get("campaigns", ())}
    parents = {name: tuple(_parents([*own.get(name, ()), *shared])) for name in files}
    return _Record(files, parents)


def _audience_items(directory: Path, names: list[str]) -> list[Item]:
    """The audiences of a folder: files that a manifest names or that have an audience's columns."""
    items, of_many = [], _Record()
    if _is_manifest(directory / AUDIENCES):
        of_many = _read_record(directory / AUDIENCES)
    for path in (directory / name for name in names if name.endswith(ENDINGS)):
        own = path.with_name(f"{path.name}.json")
        record = _read_record(own) if _is_manifest(own) else of_many
        if path.is_file() and (path.name in record.files or _has_columns(path)):
            items.append(_audience_item(path, record))
    return items


def _audience_item(path: Path, record: _Record) -> Item:
    about, trouble = "", record.trouble
    try:
        if path.name in record.files:
            check_size(path, record.files[path.name], remedy=_REMEDY)
        about = f"{_scan(path).select(pl.len()).collect().item():,} users"
    except InputError as error:
        trouble = str(error)
    except (OSError, pl.exceptions.PolarsError) as error:  # for example, the file is truncated
        trouble = f"{path}: cannot be read ({first_line(error)}); {_REMEDY}"
    status = path.stat()
    return Item(
        path=path,
        kind="audience",
        about=about,
        digest="",
        parents=record.parents.get(path.name, ()),
        modified=status.st_mtime,
        size=status.st_size,
        trouble=trouble,
        writer=writer_of(path),
    )
