"""``metaheac expand``: from campaigns with seeds to audiences."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from tyro.conf import Positional

from metaheac_jax.cli import terminal
from metaheac_jax.cli.terminal import counted, option
from metaheac_jax.errors import InputError

if TYPE_CHECKING:
    from metaheac_jax.data.campaign import Campaign
    from metaheac_jax.model import General


@dataclass(frozen=True, kw_only=True)
class Options:
    """Finds the users who are most like a campaign's seeds, for one campaign or for many."""

    #: Folder of a general model, from fit.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Ids of campaigns in the data; --campaign=-x for one that begins with a hyphen. Users who were
    #: shown a campaign and did not convert are its non-seeds; without any, 20 random users per seed
    #: are.
    campaign: Annotated[tuple[str, ...], option("ID...")] = ()
    #: All campaigns of the data that have seeds and that the model has not seen.
    all_new: bool = False
    #: For a campaign that is not in the data: a file with ids of its seeds, .txt with one per line,
    #: or a table with a column user_id.
    seeds: Annotated[Path | None, option("FILE")] = None
    #: With --seeds: a JSON file with the campaign's attributes.
    attributes: Annotated[Path | None, option("FILE")] = None
    #: Number of users in an audience; give this or --percent.
    size: Annotated[int | None, option("N")] = None
    #: Size of an audience as a percentage of its candidates.
    percent: Annotated[float | None, option("P")] = None
    #: File with ids of the only users who may be in an audience, as for --seeds. Random non-seeds
    #: are drawn from them as well.
    pool: Annotated[Path | None, option("FILE")] = None
    #: Files with ids of users to leave out of these audiences. Those who opted out of everything
    #: belong in the option of that name of prepare and add.
    exclude: Annotated[tuple[Path, ...], option("FILE...")] = ()
    #: Number of these audiences that a user may be in: where most conversions are expected.
    per_user: Annotated[int | None, option("N")] = None
    #: With --per-user, the campaigns choose one after another, in the order of --campaign.
    by_priority: bool = False
    #: Fraction of each audience to keep as a control group, which is not shown the campaign: adds a
    #: column group, shown or control.
    hold_out: Annotated[float, option("F")] = 0.0
    #: Add a column with the probability of converting, at the rate at which users of the pool have
    #: become seeds.
    probability: bool = False
    #: File to write: .parquet, .csv or .csv.gz, with campaign_id, rank, user_id and score. Seeds
    #: are in no audience.
    out: Annotated[Path, option("FILE")]


def main(options: Options) -> None:
    """Runs the command."""
    from metaheac_jax.audience.expanding import expand, find_campaigns
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.data.table_file import FORMATS, Table, write_table
    from metaheac_jax.files import read_json
    from metaheac_jax.model import load

    if bool(options.campaign) + options.all_new + (options.seeds is not None) != 1:
        raise InputError("--campaign: give one of --campaign, --all-new and --seeds")
    if (options.seeds is None) != (options.attributes is None):
        raise InputError("--attributes: give --seeds and --attributes together")
    if (options.size is None) == (options.percent is None):
        raise InputError("--size: give one of --size and --percent")
    inputs = (options.model, options.data, options.seeds, options.attributes, options.pool)
    terminal.check_output("--out", options.out, *inputs, *options.exclude, endings=FORMATS)
    terminal.keep_compiled()
    with terminal.progress_display() as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        pool = None if options.pool is None else data.mask_of(options.pool, "pool")
        campaigns: Any = None if options.all_new else [*dict.fromkeys(options.campaign)]
        if options.seeds is not None and options.attributes is not None:
            attributes = read_json(options.attributes)
            if not isinstance(attributes, dict):
                raise InputError(f'{options.attributes}: expected JSON such as {{"topic": "tea"}}')
            if not options.seeds.name.endswith(".txt") and len(Table(options.seeds).names) > 1:
                raise InputError(
                    f"{options.seeds}: has columns besides user_id, which may say who is no seed; "
                    "keep user_id of the seeds alone, or give campaign_id, user_id and label to "
                    "metaheac add --examples"
                )
            campaigns = [data.new_campaign(options.seeds, attributes, pool=pool)]
        data, chosen = find_campaigns(general, data, campaigns, pool=pool)
        audiences = expand(
            general,
            data,
            chosen,
            size=options.size,
            percent=options.percent,
            pool=pool,
            exclude=options.exclude,
            probability=options.probability,
            per_user=options.per_user,
            by_priority=options.by_priority,
            hold_out=options.hold_out,
            progress=progress,
        )
        write_table(options.out, audiences)
    told = f"{counted(len(audiences), 'user')} for {counted(len(chosen), 'campaign')}"
    terminal.print_lines(*notes_on(general, chosen), f"{options.out}: {told}")


def notes_on(general: General, campaigns: list[Campaign]) -> list[str]:
    """What may be wrong with campaigns, in words."""
    notes = list[str]()
    for one in campaigns:
        few = general.told_of_seeds(len(one.seeds))
        unknown = ", ".join(one.unknown_attributes)
        notes += [f"note: {one.name}: {few}"] if few else []
        notes += [f"note: {one.name}: the model has not seen its {unknown}"] if unknown else []
    return notes
