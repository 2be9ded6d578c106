"""What several commands read: audiences, and a campaign with some of its seeds held out."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from metaheac_jax.audience.held_out import HeldOutSeeds, hold_out_seeds
from metaheac_jax.cli.campaigns import about, find_campaign
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.methods import method_of
from metaheac_jax.model import load
from metaheac_jax.progress import Progress


def read_audience(path: Path, *, text: bool = False) -> list[int] | list[str]:
    """The user ids of an audience's file, CSV (gzip too) or Parquet.

    Args:
      path: of the file; it is Parquet if the name ends in ``.parquet``.
      text: whether ids are text.

    Raises:
      InputError: the file cannot be read, or has no column ``user_id`` with ids.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; give an audience that metaheac expand has written")
    try:
        if path.suffix == ".parquet":
            ids = pl.read_parquet(path, columns=["user_id"])["user_id"].cast(pl.String)
        else:
            ids = pl.read_csv(path, columns=["user_id"], infer_schema=False)["user_id"]
        if ids.null_count():
            raise InputError(f"{path}: a line has no user_id")
        return ids.to_list() if text else ids.cast(pl.Int64).to_list()
    except (OSError, pl.exceptions.PolarsError) as error:
        raise InputError(f"{path}: not the file of an audience, with a column user_id") from error


def open_held_out(
    model: Path,
    data: Dataset,
    seeds: Path,
    attributes: Path,
    *,
    seed: int,
    progress: Progress,
) -> HeldOutSeeds:
    """A new campaign's general model customised without some of its seeds, and these.

    Args:
      model: folder of the general model.
      data: has the users.
      seeds: file of user ids.
      attributes: file with those of the campaign.
      seed: of the non-seeds, the held-out seeds and customising.
      progress: receives what is under way.

    Raises:
      InputError: as `model.load`, `campaigns.find_campaign` and `hold_out_seeds`.
    """
    general = load(model, progress=progress)
    general.check_data(data)
    campaign, _ = find_campaign(data, seeds, attributes, seed=seed)
    method = method_of(general)
    with about(seeds):
        return hold_out_seeds(method, general, data, campaign, seed=seed, progress=progress)
