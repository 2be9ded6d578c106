"""``metaheac expand``: from seed users to audiences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import numpy as np
import tyro
from jax.sharding import Mesh

from metaheac_jax.audience.audience import Audience, check_audience_file
from metaheac_jax.audience.calibration import (
    calibrate,
    check_base_rate,
)
from metaheac_jax.audience.campaign_folder import is_campaign
from metaheac_jax.audience.curve import seed_rate
from metaheac_jax.audience.figures import load_matplotlib
from metaheac_jax.audience.held_out_seeds import seen_in_training
from metaheac_jax.audience.report import describe_audience
from metaheac_jax.audience.report_page import html_report
from metaheac_jax.audience.retrieve import audience_ranks, expand_all
from metaheac_jax.audience.workspace import AUDIENCES as MANIFEST
from metaheac_jax.audience.workspace import CUSTOMISED, remove_work
from metaheac_jax.cli import terminal
from metaheac_jax.cli.campaigns import (
    ANY_POOL,
    Request,
    check_model_folder,
    check_readable,
    has_text,
    model_notes,
    read_audience,
)
from metaheac_jax.cli.devices import DeviceOptions, mesh_of
from metaheac_jax.cli.expand_inputs import (
    Inputs,
    check_folders,
    check_own_options,
    find_inputs,
    given_ranks,
    own_ranks,
    read_requests,
    read_sources,
)
from metaheac_jax.cli.expanded import (
    Expanded,
    describe,
    manifest_of,
    overview,
    write_file,
    write_folder,
)
from metaheac_jax.cli.found_campaigns import Found
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError, Refusals
from metaheac_jax.files import is_marked, locked, write_text
from metaheac_jax.methods import Method, method_of
from metaheac_jax.model import Customised, General, load
from metaheac_jax.processes import check_same, from_first, is_first
from metaheac_jax.progress import Progress, silent
from metaheac_jax.sealed import Parent, digests
from metaheac_jax.settings import Adapts

#: Options in an audience's record.
_RECORDED = (
    *("size", "percent", "from_percent", "to_percent", "include_seeds", "exclude_shown"),
    *("probability", "base_rate", "adapts", "least_seeds", "seed"),
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Finds the users who are most like a campaign's seeds, for one campaign or for many.

    Customises a general model to the seeds, scores every user of the data and writes the best ones,
    with rank, user_id and score. The seeds themselves are left out. For one campaign, give --seeds
    and --attributes. With --campaigns, the users are scored in one pass for all campaigns.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL|CAMPAIGN")]
    """Folder of a general model, from `metaheac fit`; or of a campaign, from `metaheac customise`,
    which already has a model, seeds and attributes, and also scores data without its seeds."""
    data: Path
    """Folder of the data set whose users are scored, from `metaheac prepare`."""
    seeds: Path | None = None
    """File with the seeds' user ids: one per line, or a .csv, .csv.gz or .parquet file with a
    column user_id."""
    attributes: Path | None = None
    """JSON file with the campaign's attributes, one per campaign field of the data:
    {"advertiserId": 42, "productType": 3, ...}."""
    campaigns: Path | None = None
    """File with one campaign per line, as JSON. A new campaign: {"name": "tea", "seeds": "tea.csv",
    "attributes": {...}}. One with a folder from `metaheac customise`, whose general model must be
    MODEL: {"name": "tea", "folder": "campaigns/tea"}. Either may have "previous": "old/tea.csv". It
    may have its own "size" or "percent" and, with --probability, "base_rate", instead of the
    command's; and "suppress": "buyers.csv", users to leave out of its audience besides those of
    --suppress. A null counts as missing. A JSON list of campaigns works as well. Paths are relative
    to the file. Once customised, new campaigns are kept in OUT.customised until all audiences are
    written, so that after an interruption the same command continues."""
    out: Path
    """File to write: .parquet, .csv or .csv.gz. A file NAME.json beside it records what it was made
    from: model, data, options, and names and checksums of the given files. With --campaigns, a
    folder with a file per campaign and audiences.json; an existing folder of audiences is
    replaced."""
    format: Literal["parquet", "csv", "csv.gz"] | None = None
    """With --campaigns, the format of the files; csv by default."""
    size: int | None = None
    """Number of users in an audience. Give this, --percent, or --from-percent and --to-percent;
    none of them if every campaign of --campaigns has its own."""
    percent: float | None = None
    """Size of an audience as a percentage of all users; those of metaheac curve are of the
    candidates."""
    from_percent: float | None = None
    """A band instead of the best users: --from-percent 1 --to-percent 2 is the second percent."""
    to_percent: float | None = None
    """End of the band, as a percentage of all users. Ranks are those of candidates: once users are
    left out, such as those of an earlier audience, the best of the others begin at 0."""
    include_seeds: bool = False
    """Allow seeds in the audience."""
    exclude: tuple[Path, ...] = ()
    """Files with ids of users who opted out, as for --seeds; a file may have only a header. They
    are in no audience, and the model is not customised to them either. The model of a campaign's
    folder is customised already: the command refuses users of the data who are its seeds or have
    converted (but for converts with --exclude-shown), and notes say how many others it has learned
    from. To leave users out of what a folder learns and of all its audiences, use --exclude with
    metaheac customise or metaheac update."""
    suppress: tuple[Path, ...] = ()
    """Files with ids of users to leave out of this audience only, as for --seeds, for example users
    who were contacted this week or who have bought already: models learn from them all the same. In
    a --report they stay among the users with whom held-out seeds are compared."""
    only: tuple[Path, ...] = ()
    """Files with ids of the only users who may be in an audience, as for --seeds, for example those
    who have given their consent, or who live in one country. Otherwise as if all others were in
    --suppress; percentages are still of all users."""
    exclude_shown: bool = False
    """Leave out all users in a campaign folder's feedback, whether they converted or not: they were
    shown the campaign already. In a --report, those who did not convert stay among the users with
    whom held-out seeds are compared."""
    previous: Path | None = None
    """File of an earlier audience; the command prints how many users are kept, new and gone. Those
    who have become seeds or are left out since count as gone."""
    probability: bool = False
    """Add a column with the calibrated probability of converting. Customises the model a second
    time, without a fifth of the seeds, to calibrate on these; seeds from feedback are not among
    them. The base rate decides the level of the probabilities."""
    base_rate: float | None = None
    """With --probability: the fraction of users, without the seeds, expected to convert, above 0
    and below 1; in --report, the fraction of all users but the seeds, those of --exclude and those
    whom a campaign's folder leaves out. By default, the fraction of all users who are seeds,
    without those from feedback."""
    report: Path | None = None
    """HTML file for a report on the audience: seeds, a curve of sizes, traits, fields that the
    model uses, sensitive fields, overlap with --previous and --compare. Customises the model and
    scores the users once more, without a fifth of the seeds; seeds from feedback are not among
    these. Needs Matplotlib. Not with --campaigns."""
    compare: tuple[Path, ...] = ()
    """With --report: files of other audiences, to show their overlap with this one."""
    adapts: Adapts | None = None
    """Which weights are adapted to a campaign: all, the whole network and the embeddings of its
    examples; or heads, the layers after the network's first. With heads, many campaigns share the
    first layer and are scored several times as fast, but audiences may be worse. Default: the
    model's settings. Not for campaign folders, which are customised already."""
    skip_unusable: bool = False
    """With --campaigns, skip campaigns whose seeds, attributes, folders or users to suppress are
    refused, for example because a file is missing, and expand the others. The command prints
    the reasons, and OUT/audiences.json has them in "skipped". OUT then has no file for these
    campaigns, not even an earlier one, and the exit code is 3. An earlier audience that cannot be
    read is noted, and its campaign is not skipped. Errors in the list itself, and a model whose
    scores are not numbers, still stop the command."""
    least_seeds: int | None = None
    """Refuse a campaign with fewer seeds than this that are users of the data. By default 100; for
    a campaign's folder there is no default, since `metaheac customise` has checked its seeds."""
    seed: int = 0
    """Random seed for the random non-seeds, for customising and for --probability. With
    --campaigns, an audience does not depend on the other campaigns, but for rounding. A campaign
    folder is customised already, so there it is for --probability and --report only."""
    devices: tyro.conf.OmitArgPrefixes[DeviceOptions] = field(default_factory=DeviceOptions)


def main(options: Options) -> int:
    """Runs the command; returns its exit code."""
    _check_options(options)
    requests, refusals = read_requests(options), Refusals()
    check_own_options(options, requests)
    check_folders(options, requests)
    kept = _check_outputs(options, requests)
    mesh = mesh_of(options.devices)
    screen = terminal.screen()
    terminal.keep_compiled()
    for path in (*options.exclude, *options.suppress, *options.only):
        check_readable(path)  # a file that cannot be read is reported before the work begins
    requests = read_sources(requests, options, refusals)
    writes = is_first()
    with (
        locked(options.out) if writes else nullcontext(),
        locked(options.report) if writes and options.report else nullcontext(),
        terminal.progress_display(screen) as progress,
    ):
        own = requests[0].saved if options.campaigns is None else None
        general = own.load_general(progress) if own else load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        if mesh is not None:
            method_of(general).check_mesh()
            folders = [own.saved and own.saved.digest for own in requests]
            model_digest = general.origin and general.origin.digest
            parts = (_chosen(options), data.digest, model_digest, folders)
            check_same("options, data, model and campaigns", parts)
        others = _others(options, data)
        inputs = find_inputs(options, requests, refusals, general, data, mesh, progress)
        record = _record(options, inputs, refusals)
        terminal.print_lines(screen, *(f"skipped: {reason}" for _, reason in refusals.reasons))
        results = _expand(options, inputs, general, data, mesh, kept, progress)
        if writes:
            _write(options, results, inputs, others, record, general, data, kept, progress)
        from_first(None)  # the other processes end after the first
    if options.campaigns is None:
        lines = describe(results[0], options.out)
    else:
        terminal.print_table(screen, overview(results))
        skipped = f", {len(refusals.reasons)} skipped" if refusals.reasons else ""
        lines = [f"{options.out}: {len(results)} audiences{skipped}; {MANIFEST} has the details"]
    terminal.print_lines(screen, *lines)
    return terminal.FAULTS if refusals.reasons else 0


def _check_options(options: Options) -> None:
    """Refuses options that do not go together, before any work."""
    one = options.seeds is not None and options.attributes is not None
    some = options.seeds is not None or options.attributes is not None
    check_model_folder(options.model)
    if is_campaign(options.model):
        if some or options.campaigns is not None:
            raise InputError(
                f"{options.model}: is a campaign, which has its seeds and attributes; omit "
                "--seeds, --attributes and --campaigns"
            )
    elif (options.campaigns is None and not one) or (options.campaigns is not None and some):
        raise InputError("expand: give --seeds and --attributes, or --campaigns")
    band = options.from_percent is not None or options.to_percent is not None
    given = (options.size is not None) + (options.percent is not None) + band
    if given > 1 or (not given and options.campaigns is None):
        raise InputError(
            "expand: give one of --size, --percent, and --from-percent with --to-percent"
        )
    if given:
        audience_ranks(ANY_POOL, **given_ranks(options))
    if options.campaigns is None and options.format is not None:
        raise InputError(
            "--format: only with --campaigns; otherwise the ending of --out decides the format"
        )
    if options.campaigns is not None and options.previous is not None:
        raise InputError('--previous: not with --campaigns; give "previous" of each campaign there')
    if options.base_rate is not None:
        if not options.probability and options.report is None:
            raise InputError("--base-rate: only with --probability or --report")
        check_base_rate(options.base_rate)
    if options.compare and options.report is None:
        raise InputError("--compare: only with --report; metaheac overlap compares files")
    if options.campaigns is None and options.skip_unusable:
        raise InputError("--skip-unusable: only with --campaigns")
    if options.report is not None and options.campaigns is not None:
        raise InputError("--report: not with --campaigns; give --seeds and --attributes")
    terminal.check_minimum("--seed", options.seed, 0)
    if options.least_seeds is not None:
        terminal.check_minimum("--least-seeds", options.least_seeds, 0)


def _check_outputs(options: Options, requests: Sequence[Request]) -> Path | None:
    """Refuses outputs that cannot be written or would replace an input, before any work.

    Earlier audiences may be in the folder that is replaced: they are read before. Returns the
    folder that keeps customised campaigns until the audiences are written, if there are many.

    Raises:
      InputError: as `terminal.check_output` and `terminal.check_output_folder` do.
    """
    lists = (*options.exclude, *options.suppress, *options.only, *options.compare)
    inputs = (options.seeds, options.attributes, *lists)
    if options.report is not None:
        endings = (".html",)
        terminal.check_output("--report", options.report, *inputs, endings=endings, lock=False)
        load_matplotlib()
    if options.campaigns is None:
        terminal.check_output("--out", options.out, *inputs, lock=False)
        check_audience_file(options.out)
        manifest = manifest_of(options.out)
        if manifest.exists() and not is_marked(manifest.parent, manifest.name):
            raise InputError(
                f"--out: {manifest} would be replaced, and is not of an audience; move it away, or "
                "give another file"
            )
        return None
    sources = [path for own in requests for path in (own.source, own.suppress)]
    inputs = (options.campaigns, options.model, options.data, *sources, *lists)
    kind = "a folder of audiences"
    terminal.check_output_folder("--out", options.out, MANIFEST, kind, *inputs)
    return terminal.work_folder("--out", options.out, CUSTOMISED)


def _chosen(options: Options) -> dict[str, Any]:
    return {name: getattr(options, name) for name in _RECORDED}


def _record(options: Options, inputs: Inputs, refusals: Refusals) -> dict[str, Any]:
    """What an audience's record has about the command: options, and the content of its files."""
    requests = [own.request for own in inputs.found]
    several = {"campaigns": options.campaigns, "attributes": options.attributes}
    paths = [(name, path) for name, path in several.items() if path is not None]
    paths += [("seeds", request.source) for request in requests if not request.is_folder]
    paths += [("exclude", path) for path in options.exclude]
    paths += [("suppress", path) for path in options.suppress]
    paths += [("only", path) for path in options.only]
    paths += [("suppress", own.suppress) for own in requests if own.suppress is not None]
    paths += [
        ("previous", own.previous)
        for own in requests
        if own.previous is not None and own.name in inputs.earlier
    ]
    paths += [("compare", path) for path in options.compare]
    read = zip(paths, digests([path for _, path in paths], silent), strict=True)
    files = [{"option": name, "file": str(path), "sha256": digest} for (name, path), digest in read]
    versions = {"metaheac_jax": version("metaheac-jax"), "jax": jax.__version__}
    record = {"options": _chosen(options), "inputs": files, "versions": versions}
    if options.campaigns is None:
        return record
    skipped = [{"name": name, "reason": reason} for name, reason in refusals.reasons]
    return record | {"skipped": skipped}


def _others(options: Options, data: Dataset) -> dict[str, np.ndarray]:
    """User ids of the audiences that the report compares with this one, by file name."""
    if options.report is None:
        return {}
    paths = [*options.compare, *([] if options.previous is None else [options.previous])]
    others = {str(path): read_audience(path, text=has_text(data)) for path in paths}
    for name, ids in others.items():
        if not len(ids):
            raise InputError(f"{name}: has no users to compare with; leave it out")
    return others


def _expand(
    options: Options,
    inputs: Inputs,
    general: General,
    data: Dataset,
    mesh: Mesh | None,
    kept: Path | None,
    progress: Progress,
) -> list[Expanded]:
    """The audience of every campaign."""
    found = inputs.found
    ranks = [own_ranks(options, own.request, data.num_users) for own in found]
    campaigns = [own.campaign for own in found]
    method, seed = _method(options, general), options.seed
    scales = []
    if options.probability:
        scales = calibrate(
            method,
            general,
            data,
            campaigns,
            seed=seed,
            mesh=mesh,
            directory=kept,
            progress=progress,
        )
    models = _models(options, method, general, data, found, mesh, kept, progress)
    audiences = expand_all(
        [
            _without(inputs.own_suppressed.get(own.request.name), own, model, data)
            for own, model in zip(found, models, strict=True)
        ],
        data,
        ranks=ranks,
        include_seeds=options.include_seeds,
        exclude=np.union1d(inputs.excluded, inputs.suppressed),
        mesh=mesh,
        progress=progress,
    )
    results = []
    for number, (own, audience) in enumerate(zip(found, audiences, strict=True)):
        base_rate, ids = None, inputs.earlier.get(own.request.name)
        if options.probability:
            base_rate = own.request.base_rate or options.base_rate
            base_rate = base_rate or seed_rate(own.campaign.num_given_seeds, data)
            probabilities = scales[number].probability(audience.scores, base_rate)
            audience = replace(audience, probabilities=probabilities)
        refresh = None if ids is None else audience.compare(ids)
        notes = [*own.notes, *model_notes(models[number]), *inputs.notes]
        if options.probability or options.report:
            seen = seen_in_training(general, data, own.campaign)
            notes += [seen] if seen else []
        notes += _audience_notes(audience, ranks[number])
        results.append(Expanded(own, models[number], audience, base_rate, refresh, notes))
    return results


def _models(
    options: Options,
    method: Method,
    general: General,
    data: Dataset,
    found: Sequence[Found],
    mesh: Mesh | None,
    kept: Path | None,
    progress: Progress,
) -> list[Customised]:
    """The model of each campaign: that of its folder, or one that is customised now."""
    new = [own.campaign for own in found if own.model is None]
    models = iter(())
    if new:
        models = iter(
            method.customise(
                general,
                data,
                new,
                seed=options.seed,
                mesh=mesh,
                directory=kept,
                progress=progress,
            )
        )
    return [next(models) if own.model is None else own.model for own in found]


def _without(
    users: np.ndarray | None, found: Found, model: Customised, data: Dataset
) -> Customised:
    """The model of a campaign, which then finds none of these users, by their ids."""
    if users is None:
        return model
    if found.model is not None:  # others leave out the users of --exclude, who are left out anyway
        users = np.union1d(users, data.checked_ids(model.excluded_ids))
    return replace(model, campaign=replace(model.campaign, excluded_ids=users))


def _audience_notes(audience: Audience, wanted: range) -> list[str]:
    """Notes on where an audience ends."""
    notes = []
    if audience.num_tied:
        notes.append(
            f"{audience.num_tied:,} users of the audience have the last score, as have candidates "
            "who are left out because their user ids are larger"
        )
    if len(audience) < len(wanted):
        asked = f"ranks up to {wanted.stop:,}" if wanted.start else f"{wanted.stop:,} users"
        notes.append(
            f"{asked} were requested, but there are only {audience.num_candidates:,} candidates"
        )
    return notes


def _method(options: Options, general: General) -> Method:
    method = method_of(general)
    return method.with_settings(online_adapts=options.adapts) if options.adapts else method


def _write(
    options: Options,
    results: Sequence[Expanded],
    inputs: Inputs,
    others: Mapping[str, np.ndarray],
    record: Mapping[str, Any],
    general: General,
    data: Dataset,
    kept: Path | None,
    progress: Progress,
) -> None:
    """Writes all requested files, once the content of all of them is ready."""
    record = {"made_from": _made_from(options, general, data), **record}
    if kept is not None:  # there are many campaigns
        write_folder(options.out, results, record, ending=options.format or "csv")
        remove_work(kept)
        return
    page = ""
    if options.report is not None:
        page = _report_page(options, results[0], inputs, others, general, data, progress)
    write_file(options.out, results[0], record)
    if options.report is not None:
        write_text(options.report, page)


def _report_page(
    options: Options,
    result: Expanded,
    inputs: Inputs,
    others: Mapping[str, np.ndarray],
    general: General,
    data: Dataset,
    progress: Progress,
) -> str:
    campaign = result.found.campaign
    report = describe_audience(
        _method(options, general),
        general,
        data,
        campaign,
        result.audience,
        title=f"Audience {options.out.name}",
        seeds=result.found.check,
        exclude=inputs.excluded,
        shown=np.union1d(data.checked_ids(result.model.excluded_ids), inputs.suppressed),
        include_seeds=options.include_seeds,
        others=others,
        base_rate=options.base_rate,
        seed=options.seed,
        progress=progress,
    )
    return html_report(report)


def _made_from(options: Options, general: General, data: Dataset) -> list[dict[str, str]]:
    """Names and digests of the model and the data."""
    assert general.origin is not None  # it was loaded
    parents = [(general.origin.folder, general.origin.digest), (options.data, data.digest)]
    return [Parent.of(folder, digest)._asdict() for folder, digest in parents]
