"""What ``metaheac expand`` makes audiences from: files and folders, checked before the work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jax.sharding import Mesh

from metaheac_jax.audience.calibration import examples_to_calibrate_on
from metaheac_jax.audience.campaign_folder import is_campaign, read_campaign
from metaheac_jax.audience.retrieve import audience_ranks
from metaheac_jax.audience.seed_check import LEAST_SEEDS
from metaheac_jax.cli.campaigns import (
    Request,
    check_readable,
    find_campaign,
    has_text,
    read_attributes,
    read_audience,
    read_campaigns,
    read_excluded,
    read_user_ids,
    require_seeds,
    seed_notes,
)
from metaheac_jax.cli.found_campaigns import Found, find_campaigns
from metaheac_jax.data.campaign_record import is_among
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.errors import InputError, Refusals
from metaheac_jax.model import General
from metaheac_jax.processes import check_same
from metaheac_jax.progress import Progress
from metaheac_jax.training.checkpoint import array_digest

if TYPE_CHECKING:
    from metaheac_jax.cli.expand import Options


def read_requests(options: Options) -> list[Request]:
    """The requested campaigns: those of a list, or one from a folder or from its files."""
    if options.campaigns is not None:
        return read_campaigns(options.campaigns)
    if is_campaign(options.model):
        return [Request(options.model, None, options.previous)]
    assert options.seeds is not None  # checked by `_check_options`
    assert options.attributes is not None
    attributes = read_attributes(options.attributes)
    return [Request(options.seeds, attributes, options.previous)]


def check_own_options(options: Options, requests: Sequence[Request]) -> None:
    """Refuses campaigns without a size, or with a base rate that is not used."""
    has_size = any(value is not None for value in given_ranks(options).values())
    for request in requests:
        if not has_size and request.size is None and request.percent is None:
            raise InputError(
                f"{options.campaigns}: campaign {request.name}: has no size or percent; give it "
                "one, or give all one of --size, --percent, and --from-percent with --to-percent"
            )
        if request.base_rate is not None and not options.probability:
            raise InputError(
                f"{options.campaigns}: campaign {request.name}: base_rate: only with --probability"
            )


def check_folders(options: Options, requests: Sequence[Request]) -> None:
    """Refuses options that do not suit campaign folders, or only these."""
    folder = next((request.source for request in requests if request.is_folder), None)
    if options.adapts is not None and folder is not None:
        raise InputError(
            f"--adapts: {folder} is a campaign, which is customised already; omit --adapts"
        )
    if options.exclude_shown and folder is None:
        raise InputError("--exclude-shown: only for a campaign's folder, which has feedback")


def read_sources(
    requests: Sequence[Request], options: Options, refusals: Refusals
) -> list[Request]:
    """The usable requests with the content of campaign folders; other files are only checked."""
    read = []
    for request in requests:
        with refusals.collected(request.name), request.named():
            if request.suppress is not None:
                check_readable(request.suppress)
            if request.is_folder:
                read.append(replace(request, saved=read_campaign(request.source)))
            else:
                check_readable(request.source)
                read.append(request)
    _check_usable(len(read), options, refusals)
    return read


def _check_usable(num_usable: int, options: Options, refusals: Refusals) -> None:
    """Refuses what was refused, unless --skip-unusable skips it and leaves something."""
    if not (options.skip_unusable and num_usable):
        more = options.campaigns is not None and num_usable
        refusals.check("; --skip-unusable expands the others" if more else "")


class Inputs(NamedTuple):
    """What the audiences are made from.

    Attributes:
      found: the campaigns.
      earlier: ids of each campaign's earlier audience, by the campaign's name.
      excluded: user ids from --exclude.
      suppressed: user ids from --suppress, and those that are not in --only.
      own_suppressed: user ids to leave out of a campaign's audience only, by the campaign's name.
      notes: notes on all campaigns.
    """

    found: Sequence[Found]
    earlier: Mapping[str | None, np.ndarray]
    excluded: np.ndarray
    suppressed: np.ndarray
    own_suppressed: Mapping[str | None, np.ndarray]
    notes: Sequence[str]


def find_inputs(
    options: Options,
    requests: Sequence[Request],
    refusals: Refusals,
    general: General,
    data: Dataset,
    mesh: Mesh | None,
    progress: Progress,
) -> Inputs:
    """Reads all inputs; what cannot be used is refused before the work begins."""
    general.check_data(data)
    data.check_one_row_per_user()
    earlier, unread = dict[str | None, np.ndarray](), Refusals()
    for request in requests:
        into = unread if options.skip_unusable else refusals
        with into.collected(request.name), request.named():
            if request.previous is not None:
                earlier[request.name] = read_audience(request.previous, text=has_text(data))
    excluded, known = read_excluded(options.exclude, data)
    suppressed, more = _read_suppressed(options, data)
    own_suppressed, own_notes = _read_own_suppressed(requests, refusals, data, progress)
    requests = [request for request in requests if request.name not in refusals]
    if not requests:
        refusals.check()
    found = _find_campaigns(options, requests, refusals, general, data, excluded, progress)
    if options.probability:
        for own in found:
            with refusals.collected(own.request.name), own.named():
                examples_to_calibrate_on(own.campaign, options.seed)
    found = [own for own in found if own.request.name not in refusals]
    _check_usable(len(found), options, refusals)
    if mesh is not None:
        parts = [(own.campaign.users, own.campaign.labels, own.campaign.rows) for own in found]
        ids = (excluded, suppressed, *own_suppressed.values())
        digests = [array_digest(part) for part in (*ids, *chain(*parts))]
        check_same("campaigns and excluded users", digests)
    _check_candidates(options, data, found, np.union1d(excluded, suppressed), own_suppressed)
    reasons = dict(unread.reasons)
    for number, own in enumerate(found):
        notes = [*own.notes, *own_notes.get(own.request.name, ())]
        if own.request.name in unread:
            notes += [f"not compared with an earlier audience: {reasons[own.request.name]}"]
        found[number] = own._replace(notes=notes)
    return Inputs(found, earlier, excluded, suppressed, own_suppressed, [*known, *more])


def _read_suppressed(options: Options, data: Dataset) -> tuple[np.ndarray, list[str]]:
    """Ids of the users in --suppress, and of those who are not in --only, and notes.

    Raises:
      InputError: no user of the data is in --only.
    """
    suppressed, notes = read_excluded(options.suppress, data)
    if not options.only:
        return suppressed, notes
    only, more = read_excluded(options.only, data, aim="choose from")
    user_ids = np.asarray(data.user_ids)
    others = user_ids[~is_among(user_ids, only)]
    if len(others) == len(user_ids):
        files = ", ".join(map(str, options.only))
        raise InputError(
            f"--only: no user of {data.where} is in {files}; check that the ids are those of the "
            "prepared users"
        )
    return np.union1d(suppressed, others), [*notes, *more]


def _read_own_suppressed(
    requests: Sequence[Request], refusals: Refusals, data: Dataset, progress: Progress
) -> tuple[dict[str | None, np.ndarray], dict[str | None, list[str]]]:
    """The users to leave out of single campaigns' audiences, and notes on them, by name."""
    given, ids, notes = {}, dict[str | None, np.ndarray](), dict[str | None, list[str]]()
    for own in requests:
        if own.suppress is not None:
            with refusals.collected(own.name), own.named():
                text = has_text(data)
                given[own.name] = read_user_ids(own.suppress, text=text, may_be_empty=True)
    if given:  # one pass over the user ids for all files
        data = data.remember(np.concatenate(list(given.values())), progress=progress)
    for own in requests:
        if own.suppress is not None and own.name in given:
            ids[own.name], notes[own.name] = read_excluded([own.suppress], data)
    return ids, notes


def _check_candidates(
    options: Options,
    data: Dataset,
    found: Sequence[Found],
    left_out: np.ndarray,
    own_suppressed: Mapping[str | None, np.ndarray],
) -> None:
    """Refuses ranks that no candidate of any campaign has."""
    most, first = 0, data.num_users
    for own in found:
        campaign = own.campaign if own.model is None else own.model.campaign
        ids = np.union1d(left_out, data.checked_ids(campaign.excluded_ids))
        ids = np.union1d(ids, own_suppressed.get(own.request.name, ids[:0]))
        users = data.find_users(ids)
        if not options.include_seeds:
            users = np.union1d(users, campaign.seeds)
        num_candidates = data.num_users - np.count_nonzero(users >= 0)
        start = own_ranks(options, own.request, data.num_users).start
        if num_candidates > start:
            return
        most, first = max(most, num_candidates), min(first, start)
    if not most:
        who = "left out" if options.include_seeds else "seeds or left out"
        raise InputError(
            f"audience: has no users, since all {data.num_users:,} users of the data are {who}; "
            "use a larger pool"
        )
    raise InputError(
        f"audience: has no users, since there are only {most:,} candidates, and the first rank "
        f"requested is {first + 1:,}; choose a better rank"
    )


def _find_campaigns(
    options: Options,
    requests: Sequence[Request],
    refusals: Refusals,
    general: General,
    data: Dataset,
    excluded: np.ndarray,
    progress: Progress,
) -> list[Found]:
    """The campaigns that are not refused, in the order of the requests."""
    if options.seeds is not None and options.attributes is not None:
        campaign, check = find_campaign(
            data, options.seeds, options.attributes, exclude=excluded, seed=options.seed
        )
        least = LEAST_SEEDS if options.least_seeds is None else options.least_seeds
        require_seeds(check, least, options.seeds)
        return [Found(requests[0], campaign, check, notes=seed_notes(campaign.labels))]
    return find_campaigns(
        requests,
        general,
        data,
        exclude=excluded,
        exclude_shown=options.exclude_shown,
        least_seeds=options.least_seeds,
        learns_again=options.probability or options.report is not None,
        seed=options.seed,
        refusals=refusals,
        progress=progress,
    )


def given_ranks(options: Options) -> dict[str, Any]:
    """The options for the size of all audiences, see `audience_ranks`; None where not given."""
    names = ("size", "percent", "from_percent", "to_percent")
    return {name: getattr(options, name) for name in names}


def own_ranks(options: Options, request: Request, num_users: int) -> range:
    """The ranks of a campaign's audience."""
    if request.size is None and request.percent is None:
        return audience_ranks(num_users, **given_ranks(options))
    return audience_ranks(num_users, size=request.size, percent=request.percent)
