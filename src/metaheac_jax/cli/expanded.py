"""Audiences of ``metaheac expand`` as files, and what is printed about them."""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from metaheac_jax.audience.audience import Audience, Refresh
from metaheac_jax.audience.tables import TextTable
from metaheac_jax.audience.workspace import AUDIENCES as MANIFEST
from metaheac_jax.audience.workspace import AUDIENCES_FORMAT as FORMAT
from metaheac_jax.cli.found_campaigns import Found
from metaheac_jax.files import fsync, new_directory, whole_file
from metaheac_jax.model import Customised
from metaheac_jax.sealed import Parent, seal


@dataclass(frozen=True)
class Expanded:
    """A campaign's audience and what is said about it.

    Attributes:
      found: the campaign.
      model: the model that is customised to it.
      audience: the audience.
      base_rate: of the audience's probabilities; None without them.
      refresh: comparison with an earlier audience; None without one.
      notes: what the user should know.
    """

    found: Found
    model: Customised
    audience: Audience
    base_rate: float | None
    refresh: Refresh | None
    notes: Sequence[str]

    def own_parents(self) -> list[dict[str, str]]:
        """Name and digest of the campaign folder that the model is from, if there is one."""
        request = self.found.request
        if request.saved is None:
            return []
        return [Parent.of(request.source, request.saved.digest)._asdict()]

    def facts(self) -> dict[str, Any]:
        """The result as plain data."""
        return {
            "users": len(self.audience),
            "first_rank": self.audience.first_rank,
            "candidates": self.audience.num_candidates,
            "seeds": asdict(self.found.check),
            "unknown_attributes": self.model.campaign.unknown_attributes,
            "base_rate": self.base_rate,
            "refresh": None if self.refresh is None else self.refresh._asdict(),
            "notes": list(self.notes),
        }


def manifest_of(audience: Path) -> Path:
    """The file beside an audience that says what it was made from."""
    return audience.with_name(f"{audience.name}.json")


def write_file(path: Path, result: Expanded, record: Mapping[str, Any]) -> None:
    """Writes an audience, and beside it a file with its record and the result's facts."""
    manifest = manifest_of(path)
    mode = stat.S_IMODE(manifest.stat().st_mode) if manifest.exists() else None
    with whole_file(path) as temporary:
        result.audience.write_part(temporary, path)
        fsync(temporary)  # the disk may be full
        manifest.unlink(missing_ok=True)  # it is not of the new audience
    parents = [*result.own_parents(), *record["made_from"]]
    content = {"format": FORMAT, **record, "made_from": parents, **result.facts()}
    seal(path.parent, manifest.name, content, [path])
    if mode is not None:
        manifest.chmod(mode)


def write_folder(
    out: Path, results: Sequence[Expanded], record: Mapping[str, Any], *, ending: str
) -> None:
    """Writes an audience per campaign and a file with the record and all facts, or nothing."""
    with new_directory(out, marker=MANIFEST) as folder:
        campaigns, files = [], []
        for result in results:
            name = result.found.request.name
            files.append(folder / f"{name}.{ending}")
            result.audience.write(files[-1])
            campaigns.append(
                {
                    "name": name,
                    "file": files[-1].name,
                    "made_from": result.own_parents(),
                    **result.facts(),
                }
            )
        content = {"format": FORMAT, **record, "campaigns": campaigns}
        seal(folder, MANIFEST, content, files)


def describe(result: Expanded, out: Path) -> list[str]:
    """The lines to print about a single campaign."""
    check, audience, refresh = result.found.check, result.audience, result.refresh
    lines = [check.line(), *(f"note: {note}" for note in result.notes)]
    last = f"ranks {audience.first_rank:,} and below, " if audience.first_rank > 1 else ""
    lines.append(f"{out}: {last}{len(audience):,} users of {audience.num_candidates:,} candidates")
    if refresh is not None:
        counts = f"{refresh.kept:,} users kept, {refresh.new:,} new, {refresh.gone:,} gone"
        lines.append(f"{result.found.request.previous}: {counts}")
    if result.base_rate is not None:
        lines.append(
            f"probability: of converting, if {result.base_rate:.3%} of the users who are not seeds "
            "convert (--base-rate; by default the fraction of all users who are seeds)"
        )
    return lines


def overview(results: Sequence[Expanded]) -> TextTable:
    """A table with a row per campaign."""
    rows = []
    for result in results:
        check, audience, refresh = result.found.check, result.audience, result.refresh
        edge = f"{audience.scores[-1]:.3f}" if len(audience) else "-"
        changes = ["-"] * 3 if refresh is None else [f"{count:,}" for count in refresh]
        counts = (f"{check.used:,}", check.match_percent, f"{len(audience):,}")
        notes = "; ".join(result.notes)
        rows.append([result.found.request.name or "", notes, *counts, edge, *changes])
    numbers = ("seeds used", "match rate", "users", "edge", "kept", "new", "gone")
    return TextTable("audiences", ["campaign", "note", *numbers], rows, 2)
