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
    from metaheac_jax.data.dataset import Dataset
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
    from metaheac_jax.audience.expanding import (
        check_size,
        expand,
        find_campaigns,
        pool_mask,
        write_frame,
    )
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.data.table_file import ENDINGS
    from metaheac_jax.files import read_json
    from metaheac_jax.model import load

    if bool(options.campaign) + options.all_new + (options.seeds is not None) != 1:
        raise InputError("--campaign: give one of --campaign, --all-new and --seeds")
    if (options.seeds is None) != (options.attributes is None):
        raise InputError("--attributes: give --seeds and --attributes together")
    check_size(options.size, options.percent)
    inputs = (options.model, options.data, options.seeds, options.attributes, options.pool)
    terminal.check_output("--out", options.out, *inputs, *options.exclude, endings=ENDINGS)
    terminal.keep_compiled()
    with terminal.progress_display() as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        mask, wanted = pool_mask(data, options.pool), [*dict.fromkeys(options.campaign)]
        if options.all_new:
            wanted = new_campaigns(general, data)
        elif options.seeds is not None and options.attributes is not None:
            attributes = read_json(options.attributes)
            if not isinstance(attributes, dict):
                raise InputError(f'{options.attributes}: expected JSON such as {{"topic": "tea"}}')
            check_seeds(options.seeds)
            wanted = [data.new_campaign(options.seeds, attributes, pool=mask)]
        data, chosen = find_campaigns(general, data, wanted, pool=mask)
        audiences = expand(
            general,
            data,
            chosen,
            size=options.size,
            percent=options.percent,
            pool=None if options.pool is None else data.user_ids[mask],
            exclude=options.exclude,
            probability=options.probability,
            hold_out=options.hold_out,
            progress=progress,
        )
        write_frame(options.out, audiences)
    told = f"{counted(len(audiences), 'user')} for {counted(len(chosen), 'campaign')}"
    terminal.print_lines(*notes_on(chosen), f"{options.out}: {told}")


def new_campaigns(general: General, data: Dataset) -> list[Any]:
    """Ids of the campaigns with seeds that a model has not seen.

    Raises:
      InputError: there are none.
    """
    import numpy as np

    from metaheac_jax.data.campaign import plain_id

    seen = data.campaigns_among((*general.campaigns, *general.held_out))
    new = np.flatnonzero(~seen & (data.stage1.positives > 0))
    if not len(new):
        raise InputError(
            f"--all-new: the model has seen all campaigns of {data.where} that have seeds; add "
            "others with metaheac add, or name some with --campaign"
        )
    return [plain_id(own) for own in data.campaign_ids[new]]


def notes_on(campaigns: list[Campaign]) -> list[str]:
    """What may be wrong with campaigns, in words."""
    return [
        f"note: {own.name}: the model has not seen its {', '.join(own.unknown_attributes)}"
        for own in campaigns
        if own.unknown_attributes
    ]


def check_seeds(path: Path) -> None:
    """Refuses a table of seeds with another column, which may say that some did not convert.

    Raises:
      InputError: there is one, or the file cannot be read.
    """
    from metaheac_jax.data.table_file import Table

    if not path.name.endswith(".txt") and len(Table(path).names) > 1:
        raise InputError(
            f"{path}: has columns besides user_id, which may say who is no seed; keep user_id of "
            "the seeds alone, or give campaign_id, user_id and label to metaheac add --examples"
        )
