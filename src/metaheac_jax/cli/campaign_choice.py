"""The campaigns that `metaheac expand` and `metaheac explain` are about, and who may be found."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from tyro.conf import Positional

from metaheac_jax.cli.terminal import check_minimum, counted, option
from metaheac_jax.errors import InputError
from metaheac_jax.progress import Progress

if TYPE_CHECKING:
    from metaheac_jax.data.campaign import Campaign
    from metaheac_jax.data.dataset import Dataset
    from metaheac_jax.model import General


@dataclass(frozen=True, kw_only=True)
class ChoiceOptions:
    """Options of both commands."""

    #: Folder of a general model, from fit.
    model: Annotated[Path, Positional, option("MODEL")]
    #: Folder of the data, from prepare.
    data: Annotated[Path, Positional, option("DATA")]
    #: Ids of campaigns in the data. Users who were shown a campaign and did not convert are its
    #: non-seeds; without any, 20 random users per seed are.
    campaign: Annotated[tuple[str, ...], option("ID...")] = ()
    #: For a campaign that is not in the data: a file with ids of its seeds, .txt with one per line,
    #: or a table with a column user_id.
    seeds: Annotated[Path | None, option("FILE")] = None
    #: With --seeds: a JSON file with the campaign's attributes.
    attributes: Annotated[Path | None, option("FILE")] = None
    #: File with ids of the only users who may be in an audience, as for --seeds. Random non-seeds
    #: are drawn from them as well.
    pool: Annotated[Path | None, option("FILE")] = None
    #: Random seed for random non-seeds and customising.
    seed: Annotated[int, option("N")] = 0


class Choice(NamedTuple):
    """What the options name.

    Attributes:
      general: the model.
      data: the data, with the table rows of the model.
      campaigns: the campaigns.
      pool: ids of the users who may be in an audience; None for all.
      notes: what may be a mistake, in words.
    """

    general: General
    data: Dataset
    campaigns: list[Campaign]
    pool: list[int | str] | None
    notes: list[str]


def check_choice(options: ChoiceOptions, *, all_new: bool = False) -> None:
    """Refuses anything but one of the ways to name campaigns.

    Raises:
      InputError: none or several of them are given, a campaign twice, or seeds without attributes.
    """
    check_minimum("--seed", options.seed, 0)
    if (options.seeds is None) != (options.attributes is None):
        missing = "--attributes" if options.attributes is None else "--seeds"
        raise InputError(f"{missing}: is missing; give --seeds and --attributes together")
    if bool(options.campaign) + all_new + (options.seeds is not None) != 1:
        raise InputError(
            "--campaign: name campaigns of the data, or give --seeds and --attributes (expand also "
            "takes --all-new)"
        )
    twice = [own for own, count in Counter(options.campaign).items() if count > 1]
    if twice:
        raise InputError(f"--campaign: {twice[0]} is given twice; give it once")


def read_choice(options: ChoiceOptions, progress: Progress, *, all_new: bool = False) -> Choice:
    """Loads what the options name; with ``all_new``, the campaigns that the model has not seen.

    Raises:
      InputError: a campaign is not in the data or has no seeds, no campaign is new, or a file is
        wrong; the message names the campaign or the file.
    """
    from metaheac_jax.audience.retrieve import find_campaigns, pool_mask
    from metaheac_jax.data.storage import open_dataset
    from metaheac_jax.files import read_json
    from metaheac_jax.model import load

    general = load(options.model, progress=progress)
    data = open_dataset(options.data, progress=progress)
    pool = None if options.pool is None else read_ids(options.pool, data)
    mask = pool_mask(data, pool)
    wanted: list[Any] = [*options.campaign]
    if options.seeds is not None and options.attributes is not None:
        attributes = read_json(options.attributes)
        if not isinstance(attributes, dict):
            raise InputError(
                f'{options.attributes}: expected a JSON object such as {{"topic": "tea"}}'
            )
        ids = read_seeds(options.seeds, data)
        wanted = [data.new_campaign(ids, attributes, seed=options.seed, pool=mask)]
    elif all_new:
        wanted = new_campaigns(general, data)
    data, found = find_campaigns(general, data, wanted, pool=mask, seed=options.seed)
    return Choice(general, data, found, pool, _notes(found))


def _notes(campaigns: Sequence[Campaign]) -> list[str]:
    notes = [
        f"{own.name}: {counted(own.num_unmatched, 'seed')} not among the users of the data"
        for own in campaigns
        if own.num_unmatched
    ]
    unknown = Counter(name for own in campaigns for name in own.unknown_attributes)
    if unknown:
        told = ", ".join(f"{name} ({counted(n, 'campaign')})" for name, n in unknown.items())
        notes.append(f"the model has not seen these values of new campaigns: {told}")
    return notes


def new_campaigns(general: General, data: Dataset) -> list[int | str]:
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


def read_ids(path: Path, data: Dataset) -> list[int | str]:
    """The user ids in a file, in the form that the data has; see `table_file.read_user_ids`.

    Raises:
      InputError: the file cannot be read, has no ids, or an id cannot be one of the data.
    """
    from metaheac_jax.data.table_file import read_user_ids
    from metaheac_jax.schema import whole_number

    ids: list[int | str] = []
    for number, text in enumerate(read_user_ids(path), start=1):
        own = text if data.user_ids.dtype.kind == "S" else whole_number(text)
        if own is None:
            raise InputError(
                f"{path}: id number {number} is {text!r}, but the users of {data.where} have whole "
                "numbers; correct it"
            )
        ids.append(own)
    if not ids:
        raise InputError(f"{path}: has no user ids; write one per row")
    return ids


def read_seeds(path: Path, data: Dataset) -> list[int | str]:
    """The ids of the seeds in a file.

    Raises:
      InputError: as `read_ids`, or a column of 0 and 1 says that some users did not convert.
    """
    import polars as pl

    from metaheac_jax.data.table_file import Table

    if path.suffix != ".txt":
        table = Table(path)
        for name in table.names:
            cells = table.collect(table.scan().select(pl.col(name).cast(pl.String))).to_series()
            values = {*cells.drop_nulls().str.to_lowercase().unique()}
            if values & {"0", "false"} and values <= {"0", "1", "false", "true"}:
                raise InputError(
                    f"{path}: {name} is 0 for some users, who are no seeds; keep those with 1, or "
                    "give the file with a column campaign_id to metaheac add --examples"
                )
    return read_ids(path, data)
