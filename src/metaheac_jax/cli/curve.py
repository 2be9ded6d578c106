"""``metaheac curve``: how large an audience should be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from metaheac_jax.audience.curve import SizePoint, seed_rate, size_curve
from metaheac_jax.audience.figures import FORMATS, curve_figure, load_matplotlib
from metaheac_jax.audience.tables import MEASURES, base_rate_note, curve_table
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import check_readable, read_excluded
from metaheac_jax.cli.held_out_seeds import check_campaign_files, open_campaign
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import whole_file, write_csv


@dataclass(frozen=True, kw_only=True)
class Options:
    """Shows how good audiences of several sizes are, to help choose a size.

    Holds out a fifth of the seeds and of the random non-seeds, and customises the model to the
    rest. Then compares the held-out seeds with users whom the model has not learned from. For
    audiences of 0.5% to 50% of the candidates (all users except the seeds, those of --exclude and
    those whom a campaign's folder leaves out) it prints the number of users and, each with a 95%
    interval: the score of the last user (edge), the fraction of the held-out seeds in the audience
    (recall), the recall divided by that of a random audience (lift), and how many users would
    convert if the fraction --base-rate of the candidates did. Give the number of users to `metaheac
    expand --size`; the percentages of `metaheac expand` are of all users. The edges are scores of
    this model, so they are no thresholds for scores of an audience, whose model learns from all
    seeds. If the model was trained on this very campaign, and the data has it, a note says that
    results are too good.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|CAMPAIGN")]
    """Folder of a general model, from `metaheac fit`; or of a campaign, from `metaheac customise`,
    which already has seeds and attributes. Converts of its feedback are not held out."""
    data: Path
    """Folder of the data set whose users may be in an audience, from `metaheac prepare`."""
    seeds: Path | None = None
    """File with the seeds' user ids, as for `metaheac expand`. Needed unless a campaign is
    given."""
    attributes: Path | None = None
    """JSON file with the campaign's attributes, as for `metaheac expand`. Needed unless a campaign
    is given."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users who may not be in an audience, for example users who opted out, as
    for `metaheac expand`. They are not candidates, and nothing is learned from them."""
    base_rate: float | None = None
    """Fraction of the candidates who would convert if the campaign reached all, for example 0.01
    from earlier campaigns. Expected conversions are proportional to it; nothing else depends on it.
    The default is the fraction of the users who are seeds, without those from feedback, which is
    not an estimate of it."""
    out: Path | None = None
    """CSV file to write the table to."""
    figure: Path | None = None
    """File to write a plot of recall against size to, .png or .svg. Needs Matplotlib."""
    seed: int = 0
    """Random seed for the held-out seeds, for the random non-seeds of a new campaign, and for
    customising."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.base_rate is not None and not 0 < options.base_rate <= 1:
        raise InputError(
            f"--base-rate: expected more than 0 and at most 1, got {options.base_rate:g}"
        )
    inputs = (options.seeds, options.attributes, *options.exclude)
    if options.out is not None:
        terminal.check_output("--out", options.out, *inputs, endings=(".csv",))
    if options.figure is not None:
        endings = [f".{known}" for known in FORMATS]
        terminal.check_output("--figure", options.figure, *inputs, endings=endings)
        load_matplotlib()
    check_campaign_files("curve", options.model, options.seeds, options.attributes)
    for path in options.exclude:
        check_readable(path)  # a file that cannot be read is reported before the work begins
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        data = open_dataset(options.data, progress=progress)
        excluded, notes = read_excluded(options.exclude, data)
        opened = open_campaign(
            options.model,
            data,
            options.seeds,
            options.attributes,
            exclude=excluded,
            seed=options.seed,
            progress=progress,
        )
        held_out, more = opened.hold_out(seed=options.seed, progress=progress)
        base_rate = options.base_rate or seed_rate(held_out.num_given_seeds, data)
        points = size_curve(held_out, data, base_rate=base_rate, progress=progress)
    if options.out is not None:
        _write(options.out, points)
    if options.figure is not None:
        picture = curve_figure(points, format=options.figure.suffix[1:].lower())
        with whole_file(options.figure) as path:
            path.write_bytes(picture)
    notes += [*opened.notes, *more]
    terminal.print_lines(
        screen,
        opened.check.line(),
        f"{held_out.num_seeds:,} seeds, {len(held_out.users):,} of them held out",
        *(f"note: {note}" for note in notes),
    )
    terminal.print_table(screen, curve_table(points))
    terminal.print_lines(screen, base_rate_note(base_rate))
    if not options.base_rate:
        without = ", without those from feedback" if len(opened.converts) else ""
        source = f"That is the fraction of users who are seeds{without}; "
        terminal.print_lines(screen, f"{source}give --base-rate if you have an estimate.")


def _write(path: Path, points: Sequence[SizePoint]) -> None:
    header = ["percent", "size"]
    for name in MEASURES:
        header += [name, f"{name}_low", f"{name}_high"]
    rows = [
        [point.percent, point.size, *(bound for name in MEASURES for bound in getattr(point, name))]
        for point in points
    ]
    write_csv(path, header, rows)
