"""A campaign folder: a customised model on disk, its examples, and later feedback.

    campaign.json       the campaign's attributes, the general model, versions, checksums
    examples.parquet    user_id, label: seeds (1) and non-seeds (0)
    feedback.parquet    user_id, converted: users who were shown the campaign, 1 for converts
    excluded.parquet    user_id: users neither learned from nor in an audience, such as opt-outs
    adapted/            arrays: the weights that differ from the general model

The general model stays in its own folder; both folders are needed to score.

Axes: n examples of a campaign, F users with feedback, X excluded users, U rows that adapting
touched.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import polars as pl

from metaheac_jax.audience.held_out_seeds import HELD_OUT
from metaheac_jax.audience.seed_check import LEAST_SEEDS
from metaheac_jax.audience.shown import share_to_keep
from metaheac_jax.customise.early_stopping import hold_out
from metaheac_jax.data.campaign import Campaign, UserIds
from metaheac_jax.data.campaign_record import CampaignRecord, Feedback, is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import locked, new_directory
from metaheac_jax.methods import method_of
from metaheac_jax.methods.stages import Run
from metaheac_jax.model import MANIFEST as GENERAL
from metaheac_jax.model import (
    AdaptedWeights,
    Customised,
    General,
    Origin,
    load,
    read_arrays,
    write_arrays,
)
from metaheac_jax.progress import Progress, silent
from metaheac_jax.sealed import read_sealed, read_undisturbed, seal

FORMAT = "metaheac_jax campaign 1"
MANIFEST = "campaign.json"
_REMEDY = "give the folder that `metaheac customise` has written"


class Counts(NamedTuple):
    """Numbers of users. While feedback is only added, equal numbers mean equal users.

    Those excluded may change at an equal number, but only in `update_customised`, which then learns
    again.

    Attributes:
      shown: number of users with feedback.
      converted: number of these who converted.
      excluded: number of users left out of learning.
    """

    shown: int
    converted: int
    excluded: int


@dataclass(frozen=True)
class SavedCampaign:
    """The content of a campaign folder.

    Attributes:
      record: the campaign with its original seeds and non-seeds.
      feedback: feedback on all of its audiences.
      adapted: the weights that differ from the general model.
      origin: the general model's folder and digest.
      excluded: (X,) int64 or UTF-8 bytes, ascending and distinct: ids of users who are left out of
        learning and of audiences.
      learned: counts of the users when the weights were learned; None if feedback was replaced
        since, see `add_feedback`.
      share: fraction of the users in the feedback without conversion who are non-seeds; see
        `shown.share_to_keep`.
      data_digest: digest of the data set that they were learned on; None if not known.
      seed: random seed that they were learned with; None if not known.
      num_learned: number of seeds and converts that they were learned from; None if not known.
      digest: digest of the manifest that this was read from; None if it was not read.
      folder: the campaign folder that this was read from; None if it was not read.
    """

    record: CampaignRecord
    feedback: Feedback
    adapted: AdaptedWeights
    origin: Origin
    excluded: np.ndarray
    learned: Counts | None
    share: float = 1.0
    data_digest: str | None = None
    seed: int | None = None
    num_learned: int | None = None
    digest: str | None = None
    folder: Path | None = None

    @property
    def examples(self) -> CampaignRecord:
        """The campaign with users with feedback among its examples, without excluded users.

        Of those who did not convert it has a random part, see ``share``.
        """
        kept = self.feedback.sample(self.share, b"feedback" + self.record.seeds_digest)
        return self.record.with_feedback(kept).without(self.excluded)

    @property
    def user_ids(self) -> np.ndarray:
        """Ids of the users with a label or feedback; some occur twice."""
        return np.concatenate([self.record.user_ids, self.feedback.user_ids])

    @property
    def num_first_seeds(self) -> int:
        """Number of seeds that it began with, without those who are left out."""
        return int((self.record.without(self.excluded).labels == 1).sum())

    @property
    def found_ids(self) -> np.ndarray:
        """Ids of the users whose label is from feedback, see `Campaign.found`.

        They include no original seeds, and only those original non-seeds that converted.
        """
        ids, is_seed = self.record.user_ids, self.record.labels == 1
        converts = self.feedback.user_ids[self.feedback.converted]
        kept = is_seed | ~is_among(ids, converts)
        return np.setdiff1d(self.feedback.user_ids, ids[kept])

    @property
    def known(self) -> Counts:
        """Counts of the users that the weights would be learned from now."""
        converted = int(self.feedback.converted.sum())
        return Counts(len(self.feedback), converted, len(self.excluded))

    def with_ids_of(self, data: Dataset) -> SavedCampaign:
        """The campaign with user ids in the form that the data uses.

        All ids of a data set are text if one of them is not a whole number; 7 is then the text "7".

        Raises:
          InputError: the data has whole numbers, and an id of the campaign is none.
        """
        record, feedback = self.record, self.feedback
        try:
            return replace(
                self,
                record=replace(record, user_ids=data.checked_ids(record.user_ids)),
                feedback=Feedback.of(data.checked_ids(feedback.user_ids), feedback.converted),
                excluded=np.unique(data.checked_ids(self.excluded)),
            )
        except InputError as error:
            raise InputError(
                f"campaign {record.name}: {error}, since {data.where} has no text as ids; use data "
                "that has"
            ) from error

    def is_of(self, general: General) -> bool:
        """Whether the weights were adapted from this general model."""
        return general.origin is not None and general.origin.digest == self.origin.digest

    def is_up_to_date(self, general: General) -> bool:
        """Whether they were adapted from this general model with all feedback and exclusions."""
        return self.is_of(general) and self.learned == self.known

    def would_stay(
        self,
        general: General,
        data: Dataset,
        seed: int,
        *,
        exclude: UserIds = (),
        readmit: UserIds = (),
    ) -> bool:
        """Whether `update_customised` would learn the same weights again.

        It would not if the general model is in another folder, which the campaign must then name.
        A digest or a random seed that is not known counts as the same.

        Raises:
          InputError: the ids of ``exclude`` or ``readmit`` are of another kind than the data's.
        """
        same_data = None in (self.data_digest, data.digest) or self.data_digest == data.digest
        same_data &= (self.record.user_ids.dtype.kind == "S") == (data.user_ids.dtype.kind == "S")
        same = same_data and general.origin == self.origin and self.learned == self.known
        if not same or self.seed not in (None, seed):
            return False
        exclude, readmit = data.checked_ids(exclude), data.checked_ids(readmit)
        back = is_among(readmit, self.excluded) & ~is_among(readmit, exclude)
        return bool(is_among(exclude, self.excluded).all() and not back.any())

    def load_general(self, progress: Progress = silent) -> General:
        """Loads the general model.

        Raises:
          InputError: it is not in its folder, or as in `model.load`.
        """
        place, own = self.origin.folder, self.folder or self.record.name
        if not (place / GENERAL).is_file():
            raise InputError(
                f"campaign {self.record.name}: its general model is not in {place}; move it back, "
                f"or use `metaheac update {shlex.quote(str(own))} --data DATA --model FOLDER`"
            )
        return load(place, progress=progress)

    def customised(self, general: General, data: Dataset) -> Customised:
        """The customised model; users of the campaign who are not in the data are left out.

        The data may have none of them, for example today's new users alone.

        Raises:
          InputError: the general model is another one or does not fit the data, the method cannot
            be saved, or as in `with_ids_of`.
        """
        if not self.is_of(general):
            where, advice = "in memory", "`update_customised` customises it again"
            if general.origin is not None:
                own = shlex.quote(str(self.folder or self.record.name))
                new = shlex.quote(str(general.origin.folder))
                where = f"in {general.origin.folder}"
                advice = f"`metaheac update {own} --data DATA --model {new}` customises it again"
            raise InputError(
                f"campaign {self.record.name}: was customised from another general model than that "
                f"{where}; {advice}"
            )
        general.check_data(data)
        saved = self.with_ids_of(data)
        method = method_of(general)
        campaign = data.recorded_campaign(saved.examples, needs_seeds=False)
        found = is_among(data.user_ids[campaign.users], saved.found_ids)
        campaign = replace(campaign, found=campaign.users[found], excluded_ids=saved.excluded)
        run = Run(data, np.empty(0, int), general.settings, 0)
        if method.restore is None:
            raise InputError(f"campaign {self.record.name}: {method.name!r} cannot be saved")
        scorer = method.restore(run, general.state, campaign, self.adapted)
        return Customised(general, campaign, data.ids_of_seeds(campaign), scorer)


def save_customised(
    model: Customised,
    data: Dataset,
    directory: Path | str,
    *,
    seed: int | None = None,
    progress: Progress = silent,
) -> None:
    """Writes a customised model into a campaign folder, completely or not at all.

    An existing campaign folder is replaced. The campaign takes the name of the folder. Users who
    are excluded from the model's audiences are also excluded from all later learning, unless
    `update_customised` readmits them.

    Args:
      model: customised to a campaign from `Dataset.new_campaign`, from a general model in a folder.
      data: the data that it was customised on.
      directory: the folder.
      seed: random seed of customising, if known; `metaheac update` with another one learns again.
      progress: receives the number of bytes checksummed.

    Raises:
      InputError: the method adapts no network's weights, the general model is in no folder, the
        campaign has feedback or belongs to a data set, the data is not that of the model, or the
        folder exists and is not a campaign folder, or has a foreign file in it.
    """
    general, campaign, adapted = model.general, model.campaign, model.adapted
    if general.origin is None:
        raise InputError(
            "the general model has not been saved to a folder; customise what `save` or `load` "
            "returns"
        )
    if campaign.attributes is None:
        raise InputError(
            f"{campaign.name}: belongs to a data set, so its attributes as given are not known; "
            "save one from `Dataset.new_campaign`"
        )
    if len(campaign.found):
        raise InputError(
            f"{campaign.name}: has feedback, which only its own folder holds apart from the seeds "
            "that it began with; call `update_customised` on that folder, or copy it"
        )
    if not np.array_equal(data.ids_of_seeds(campaign), model.seed_ids):
        raise InputError(f"{data.where}: not the data that {campaign.name} was customised on")
    attributes = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in campaign.attributes.items()
    }
    # Seeds that are not in the data are kept: later data may have them.
    absent = data.checked_ids(campaign.unmatched)
    ids = np.concatenate([data.user_ids[campaign.users], absent])
    labels = np.concatenate([campaign.labels, np.ones(len(absent), np.int8)])
    record = CampaignRecord(_name(directory), attributes, ids, labels)
    feedback = Feedback.of(ids[:0], np.empty(0, bool))
    excluded = np.unique(data.checked_ids(campaign.excluded_ids))
    kept, learned = _changed(adapted, general), Counts(0, 0, len(excluded))
    saved = SavedCampaign(
        record,
        feedback,
        kept,
        general.origin,
        excluded,
        learned,
        data_digest=data.digest,
        seed=seed,
        num_learned=len(campaign.seeds),
    )
    write_campaign(saved, directory, progress)


def load_customised(
    directory: Path | str, general: General, data: Dataset, *, progress: Progress = silent
) -> Customised:
    """Loads a customised model from a campaign folder.

    Args:
      directory: a folder of `save_customised` or `metaheac customise`.
      general: the general model that was customised.
      data: has the users to score, and the fields and vocabulary of ``general``.
      progress: receives the number of bytes read.

    Raises:
      InputError: as `read_campaign` and `SavedCampaign.customised`.
    """
    return read_campaign(directory, progress=progress).customised(general, data)


def add_feedback(
    directory: Path | str,
    feedback: Feedback,
    *,
    replace_all: bool = False,
    progress: Progress = silent,
) -> SavedCampaign:
    """Adds feedback to a campaign folder; its order and repetitions do not matter.

    The model does not change; see `update_customised`.

    Args:
      directory: the campaign folder.
      feedback: the feedback.
      replace_all: replace all earlier feedback, for example after a wrong file. The model counts as
        not up to date until `update_customised`, since it may have learned from what is replaced.
      progress: receives the number of bytes checksummed.

    Returns:
      The new content of the folder.

    Raises:
      InputError: the folder has no campaign, or the user ids are of another kind.
    """
    with locked(Path(directory)):
        saved = read_campaign(directory, progress=progress)
        merged = saved.feedback.merge(feedback)
        if replace_all:
            saved = replace(saved, feedback=feedback, learned=None)
        else:
            saved = replace(saved, feedback=merged)
        write_campaign(saved, directory, progress)
    return saved


def update_customised(
    directory: Path | str,
    general: General,
    data: Dataset,
    *,
    exclude: UserIds = (),
    readmit: UserIds = (),
    least_seeds: int | None = None,
    seed: int = 0,
    progress: Progress = silent,
) -> SavedCampaign:
    """Customises the model of a campaign folder again, to its seeds, non-seeds and all feedback.

    Of the users who were shown the campaign and did not convert, a random part become non-seeds.
    To find how many, see `shown.share_to_keep`, the model is first customised without feedback, to
    four fifths of the first examples. All of these users become non-seeds if the data has fewer
    than two of the first seeds or of the first non-seeds.

    It starts from the general model, so the result depends on these alone, and not on the number
    and order of earlier updates and additions of feedback. Early stopping needs this too: the
    examples that it holds out must be new to the model. The general model may differ from the
    previous one, for example if a new one is trained every day.

    Args:
      directory: the campaign folder.
      general: the general model.
      data: the data with the campaign's users; users that it lacks are left out. The folder's user
        ids take the form of the data's ids.
      exclude: ids of further users who are left out from now on.
      readmit: ids of users who are no longer left out, unless ``exclude`` has them too; others in
        it are ignored. Seeds who were already left out when the campaign was made are not seeds
        again.
      least_seeds: minimum number of seeds and converts that are users of the data. Default: 100, or
        half of those that the model has learned from and that are not left out, if that is less; it
        counts as having learned from all if the folder does not tell.
      seed: random seed for held-out examples and minibatches.
      progress: receives the progress of customising.

    Returns:
      The new content of the folder.

    Raises:
      InputError: the folder has no campaign, the general model is in no folder or does not fit the
        data, fewer seeds than ``least_seeds`` or no non-seed are users of the data, all seeds or
        non-seeds are to be left out, or as in `SavedCampaign.with_ids_of`.
      Diverged: weights or scores are not finite.
    """
    with locked(Path(directory)):
        saved = read_campaign(directory, progress=progress)
        if general.origin is None:
            raise InputError("the general model is in no folder; give one from `save` or `load`")
        saved = saved.with_ids_of(data)
        data = data.remember(saved.user_ids, progress=progress)
        excluded = np.setdiff1d(saved.excluded, data.checked_ids(readmit))
        excluded = np.union1d(excluded, data.checked_ids(exclude))
        saved = replace(saved, excluded=excluded, share=1.0)
        campaign = _to_learn_from(saved, data, least_seeds)
        method = method_of(general)
        customise = partial(method.customise, general, data, seed=seed, progress=progress)
        share = _share_of_shown(saved, data, customise, seed)
        if share < 1:
            saved = replace(saved, share=share)
            campaign = data.recorded_campaign(saved.examples)
        [model] = customise([campaign])
        saved = replace(
            saved,
            adapted=_changed(model.adapted, general),
            origin=general.origin,
            learned=saved.known,
            data_digest=data.digest,
            seed=seed,
            num_learned=len(campaign.seeds),
        )
        write_campaign(saved, directory, progress)
    return saved


def _to_learn_from(saved: SavedCampaign, data: Dataset, least_seeds: int | None) -> Campaign:
    """The campaign as found in the data; refuses too few examples, as `update_customised` says."""
    for label, who in ((1, "seeds"), (0, "non-seeds")):
        if not (saved.examples.labels == label).any():
            raise InputError(
                f"{saved.folder}: all its {who} are to be left out; keep some, or make a new "
                "campaign"
            )
    campaign = data.recorded_campaign(saved.examples)
    remedy = "use data with more of the campaign's users"
    if least_seeds is None:
        left = int((saved.examples.labels == 1).sum())
        if saved.num_learned is not None:
            left = min(left, saved.num_learned)
        least_seeds = min(LEAST_SEEDS, left // 2)
    if len(campaign.seeds) < least_seeds:
        raise InputError(
            f"{saved.folder}: {len(campaign.seeds):,} of its "
            f"{len(data.ids_of_seeds(campaign)):,} seeds and converts are users of {data.where}, "
            f"fewer than --least-seeds {least_seeds}; {remedy}, or give another number"
        )
    if not (campaign.labels == 0).any():
        raise InputError(
            f"{saved.folder}: none of its non-seeds is a user of {data.where}; {remedy}"
        )
    return campaign


def _share_of_shown(
    saved: SavedCampaign,
    data: Dataset,
    customise: Callable[[Sequence[Campaign]], list[Customised]],
    seed: int,
) -> float:
    """See `shown.share_to_keep`; 1 without new users in the feedback, or with too few examples."""
    first = data.recorded_campaign(saved.record.without(saved.excluded), needs_seeds=False)
    users = data.find_users(saved.feedback.user_ids)
    new = (users >= 0) & ~is_among(saved.feedback.user_ids, saved.excluded)
    new &= ~np.isin(users, first.users)
    rng = np.random.Generator(np.random.Philox(seed))
    learned, held_out = hold_out(first.labels, HELD_OUT, rng)
    if not new.any() or not len(held_out):
        return 1.0
    [model] = customise([first.pick(learned)])
    scores, others = (model.score(data.user_rows[of]) for of in (users[new], first.users[held_out]))
    return share_to_keep(scores, saved.feedback.converted[new], others, first.labels[held_out])


def is_campaign(directory: Path) -> bool:
    """Whether a folder is a campaign folder, possibly a damaged one."""
    return (directory / MANIFEST).is_file()


def read_campaign(directory: Path | str, *, progress: Progress = silent) -> SavedCampaign:
    """Reads a campaign folder and verifies every file.

    Raises:
      InputError: the folder has no campaign, or one of its files is missing, truncated or altered;
        the message names it.
    """
    folder = Path(directory)
    return read_undisturbed(folder, MANIFEST, lambda: _read(folder, progress))


def _read(folder: Path, progress: Progress) -> SavedCampaign:
    body = read_sealed(folder, MANIFEST, format=FORMAT, remedy=_REMEDY, progress=progress)
    examples, feedback, excluded = (
        pl.read_parquet(folder / f"{n}.parquet") for n in ("examples", "feedback", "excluded")
    )
    adapted = read_arrays(folder, body["files"])["adapted"]
    return SavedCampaign(
        record=CampaignRecord(
            _name(folder),
            body["attributes"],
            _from_column(examples["user_id"]),
            examples["label"].to_numpy(),
        ),
        feedback=Feedback(
            _from_column(feedback["user_id"]), feedback["converted"].to_numpy().astype(bool)
        ),
        adapted=AdaptedWeights(
            jax.tree.map(jnp.asarray, adapted.get("network", {})),  # nothing adapted, no file
            adapted["rows"],
            jnp.asarray(adapted["values"]),
        ),
        origin=Origin((folder / body["model"]).resolve(), body["model_digest"]),
        excluded=_from_column(excluded["user_id"]),
        learned=body["learned"] and Counts(**body["learned"]),
        share=body.get("share", 1.0),
        data_digest=body.get("data_digest"),
        seed=body.get("seed"),
        num_learned=body.get("num_learned"),
        digest=body["digest"],
        folder=folder,
    )


def write_campaign(saved: SavedCampaign, directory: Path | str, progress: Progress) -> None:
    """Writes a campaign folder, completely or not at all.

    Raises:
      InputError: the folder exists and is not a campaign folder, or has a foreign file in it.
    """
    target = Path(directory).resolve()
    record, feedback = saved.record, saved.feedback
    with new_directory(target, marker=MANIFEST) as folder:
        files = write_arrays(folder, {"adapted": saved.adapted._asdict()})
        tables = {
            "examples": {"user_id": _as_column(record.user_ids), "label": record.labels},
            "feedback": {
                "user_id": _as_column(feedback.user_ids),
                "converted": feedback.converted.astype(np.int8),
            },
            "excluded": {"user_id": _as_column(saved.excluded)},
        }
        for name, columns in tables.items():
            files.append(folder / f"{name}.parquet")
            pl.DataFrame(columns).write_parquet(files[-1])
        content = {
            "format": FORMAT,
            "attributes": dict(record.attributes),
            "model": os.path.relpath(saved.origin.folder, target),
            "model_digest": saved.origin.digest,
            "seeds": int((record.labels == 1).sum()),
            "known": saved.known._asdict(),
            "learned": saved.learned and saved.learned._asdict(),
            "share": saved.share,
            "data_digest": saved.data_digest,
            "seed": saved.seed,
            "num_learned": saved.num_learned,
            "versions": {"metaheac_jax": version("metaheac-jax"), "jax": jax.__version__},
        }
        seal(folder, MANIFEST, content, files, progress=progress)


def _name(directory: Path | str) -> str:
    return Path(directory).resolve().name


def _changed(adapted: AdaptedWeights, general: General) -> AdaptedWeights:
    """The adapted weights without padding and without rows that equal the general model's."""
    table, rows, values = (np.asarray(a) for a in (general.state["table"], *adapted[1:]))
    real = np.flatnonzero(rows < len(table))
    kept = real[(values[real] != table[rows[real]]).any(axis=1)]
    return AdaptedWeights(adapted.network, rows[kept], jnp.asarray(values[kept]))


def _as_column(ids: np.ndarray) -> pl.Series:
    """User ids as a column of a file."""
    if ids.dtype.kind == "S":
        return pl.Series([user_id.decode() for user_id in ids.tolist()], dtype=pl.String)
    return pl.Series(ids.astype(np.int64))


def _from_column(column: pl.Series) -> np.ndarray:
    """User ids of a file in the form that data sets use."""
    if column.dtype == pl.String:
        return np.array([user_id.encode() for user_id in column.to_list()], dtype="S")
    return column.to_numpy()
