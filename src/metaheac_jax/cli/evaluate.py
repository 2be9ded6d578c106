"""``metaheac evaluate``: how good a general model's audiences are for campaigns new to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import tyro

from metaheac_jax.audience.calibration import CalibrationBin, calibration_table
from metaheac_jax.audience.evaluation import (
    PERCENT,
    judge_all,
    pool_gains,
    pool_probabilities,
    score_pools,
)
from metaheac_jax.audience.gains import Gain
from metaheac_jax.audience.held_out_seeds import added_like
from metaheac_jax.audience.tables import TextTable
from metaheac_jax.cli import terminal
from metaheac_jax.cli.gains import gains_facts, print_gains
from metaheac_jax.data.batches import is_usable
from metaheac_jax.data.campaign import plain_id
from metaheac_jax.data.dataset import Dataset
from metaheac_jax.data.splits import Split, questions_of, small_campaigns
from metaheac_jax.data.storage import open_dataset
from metaheac_jax.errors import InputError
from metaheac_jax.files import read_json, write_csv, write_json
from metaheac_jax.methods import method_of
from metaheac_jax.model import load

GROUPS = {"small": "at most", "large": "more than"}
_METRICS = ("auc", "precision", "recall")
_FEW = "fewer than 20 examples of stage 1 to customise on, or only seeds or only non-seeds"


@dataclass(frozen=True)
class Options:
    """Judges a general model on campaigns that it was not trained on.

    Customises the model to each such campaign of the data, from its examples of stage 1, and ranks
    its users of stage 2, of whom it is known who converted. For campaigns with small and with large
    seed sets it prints, averaged over campaigns: how often a user who converted is ranked above one
    who did not (AUC); how many of the best 5% converted (precision), and how many of all who
    converted are among them (recall). A gains table has the users who converted in each tenth of
    the users, best first. For most methods, predicted and observed conversion rates follow, where
    predictions are at the mean rate of each campaign's stage 2. Use `metaheac fit --campaigns
    paper` to leave campaigns out of training.
    """

    model: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """Folder of a general model, from `metaheac fit`."""
    data: Path
    """Folder of the data set, from `metaheac prepare`."""
    out: Path | None = None
    """File to write: .json for all results, with the metrics of every campaign; .csv for the gains
    tables alone."""
    against: Path | None = None
    """Results of another model on such data, from --out with .json, for example of the model in
    use: prints how much higher the metrics of this model are in the mean of the campaigns that both
    have judged, ± the standard error over these campaigns, and on how many its AUC is higher. The
    error does not include what another training of the same model would change."""
    seed: int = 0
    """Random seed for customising."""


def main(options: Options) -> None:
    """Runs the command."""
    terminal.check_minimum("--seed", options.seed, 0)
    if options.out is not None:
        endings = (".json", ".csv")
        terminal.check_output("--out", options.out, options.against, endings=endings)
    others = None if options.against is None else _read_results(options.against)
    screen = terminal.screen()
    terminal.keep_compiled()
    with terminal.progress_display(screen) as progress:
        general = load(options.model, progress=progress)
        data = open_dataset(options.data, progress=progress)
        general.check_data(data)
        # Held-out campaigns are not new either, since they decided when training stopped.
        known = data.campaigns_among((*general.campaigns, *general.held_out))
        in_stage2 = data.stage2.counts > 0
        new = ~known & in_stage2
        usable = is_usable(data)
        test = np.flatnonzero(new & usable).tolist()
        _check_campaigns(options, test, in_stage2, new)
        ids = {plain_id(data.campaign_ids[own]) for own in test}
        if others is not None and ids.isdisjoint(others.campaigns):
            raise InputError(
                f"--against: {options.against} has none of the {len(ids)} campaigns to be judged"
            )
        alike = [(own, added_like(general, data, data.campaign(own))) for own in test]
        method = method_of(general)
        pools = score_pools(method, general, data, test, seed=options.seed, progress=progress)
    small, threshold = small_campaigns(data)
    split = Split(np.flatnonzero(known), np.array(test), small, threshold)
    result = judge_all(data, split, pools.scores, label=method.label)
    for campaign_id in data.campaign_ids[new & ~usable]:
        why = f"it has {_FEW}"
        result["left_out"].append({"campaign": plain_id(campaign_id), "why": why})
    groups = {
        group: _group_gains(data, result, group, test, pools.scores, log_odds=method.log_odds)
        for group in GROUPS
    }
    result["groups"] = {group: gains_facts(*own) for group, own in groups.items()}
    assert general.origin is not None  # it was loaded
    result |= {"data": data.digest, "model": general.origin.digest}
    if others is not None:
        differences = {group: _differences(result, others, group) for group in GROUPS}
        result["against"] = {"model": others.model, "groups": differences}
    if options.out is not None:
        _write(options.out, result)
    terminal.print_lines(screen, "", f"{method.label} on {data.name}")
    terminal.print_table(screen, _figures(result, threshold))
    if others is not None:
        terminal.print_lines(screen, "", f"minus {options.against}, on the campaigns of both")
        terminal.print_table(screen, _against_table(result["against"]["groups"], threshold))
        if others.data != data.digest:
            note = "note: those results are of other data, whose users and examples may differ"
            terminal.print_lines(screen, note)
    for group, sign in GROUPS.items():
        print_gains(screen, *groups[group], of=f"{sign} {threshold:,} seeds: ")
    terminal.print_lines(
        screen,
        *_count_notes(data, result, known, in_stage2),
        *(
            f"campaign {left['campaign']} could not be judged: {left['why']}"
            for left in result["left_out"]
        ),
        *(
            f"note: campaign {plain_id(data.campaign_ids[own])} may have the attributes of "
            f"{name}, which the model was trained on; if it has its seeds, its results are too good"
            for own, name in alike
            if name is not None
        ),
        *_question_notes(data, known, test),
    )


def _check_campaigns(
    options: Options, test: Sequence[int], in_stage2: np.ndarray, new: np.ndarray
) -> None:
    """Refuses data and a model that leave no campaign to judge."""
    if not in_stage2.any():
        raise InputError(
            f"{options.data}: has no examples of stage 2, on which audiences are judged; "
            "prepare it from examples some of which have stage 2"
        )
    if not len(test) and new.any():
        raise InputError(
            f"{options.data}: campaigns that {options.model} was not trained on have {_FEW}; "
            "add examples"
        )
    if not len(test):
        raise InputError(
            f"{options.model}: was trained on every campaign that {options.data} can judge; "
            "train with `metaheac fit --campaigns paper` to leave some out"
        )


class _Results(NamedTuple):
    """What is needed of a file of results.

    Attributes:
      campaigns: the metrics of each campaign, by its id.
      data, model: digests of what was judged.
    """

    campaigns: dict[int | str, dict[str, float]]
    data: str | None
    model: str


def _read_results(path: Path) -> _Results:
    """The results in a file.

    Raises:
      InputError: the file is not one that --out has written.
    """
    content = read_json(path)
    try:
        campaigns = content["campaigns"]
        metrics = {own["campaign"]: {m: float(own[m]) for m in _METRICS} for own in campaigns}
        return _Results(metrics, content["data"], content["model"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: not the results of metaheac evaluate; give a file from --out with .json"
        ) from error


def _differences(result: dict[str, Any], others: _Results, group: str) -> dict[str, Any]:
    """Mean differences over the campaigns of a group that others have, too, with their errors."""
    members = [own for own in result["campaigns"] if own["group"] == group]
    members = [own for own in members if own["campaign"] in others.campaigns]
    found: dict[str, Any] = {"campaigns": len(members)}
    for name in _METRICS if members else ():
        other = [others.campaigns[own["campaign"]][name] for own in members]
        change = np.array([own[name] for own in members]) - other
        error = change.std(ddof=1) / math.sqrt(len(change)) if len(change) > 1 else None
        found[name] = {
            "mean": float(change.mean()),
            "error": None if error is None else float(error),
            "higher": int((change > 0).sum()),
        }
    return found


def _against_table(against: dict[str, Any], threshold: int) -> TextTable:
    rows = []
    for group, sign in GROUPS.items():
        found, cells = against[group], ["-"] * 4
        if found["campaigns"]:
            texts = []
            for measure in _METRICS:
                mean, error = found[measure]["mean"], found[measure]["error"]
                texts.append(f"{mean:+.4f}" + ("" if error is None else f" ±{error:.4f}"))
            cells = [texts[0], f"{found['auc']['higher']} of {found['campaigns']}", *texts[1:]]
        rows.append([f"{sign} {threshold:,} seeds", str(found["campaigns"]), *cells])
    percent = f"{PERCENT:g}%"
    header = ["seed sets", "campaigns", "AUC", "higher on", f"P@{percent}", f"R@{percent}"]
    return TextTable("", header, rows)


def _count_notes(
    data: Dataset, result: dict[str, Any], known: np.ndarray, in_stage2: np.ndarray
) -> list[str]:
    """How many of the campaigns are judged, and why the others are not, if there are others."""
    reasons = (
        (int(known.sum()), "trained on or held out of training"),
        (int((~known & ~in_stage2).sum()), "without examples of stage 2"),
        (len(result["left_out"]), "that could not be judged"),
    )
    others = ", ".join(f"{count:,} {why}" for count, why in reasons if count)
    judged = f"judged {len(result['campaigns']):,} of {data.num_campaigns:,} campaigns"
    return [f"{judged}; the others: {others}"] if others else []


def _question_notes(data: Dataset, known: np.ndarray, test: Sequence[int]) -> list[str]:
    """A note if known campaigns are other answers to the questions of those judged."""
    question = questions_of(data)
    shared = int(np.isin(question[test], question[known]).sum())
    if not shared:
        return []
    return [
        f"note: for {shared:,} of these {len(test):,} campaigns the model was trained on other "
        "values of the same column, so it has seen answers of these users, and results may be too "
        "good"
    ]


def _group_gains(
    data: Dataset,
    result: dict[str, Any],
    group: str,
    test: Sequence[int],
    scores: Sequence[np.ndarray],
    *,
    log_odds: bool,
) -> tuple[Sequence[Gain], Sequence[CalibrationBin]]:
    """Gains and calibration of a group's judged campaigns; both empty if there are none."""
    judged = {entry["campaign"] for entry in result["campaigns"] if entry["group"] == group}
    pairs = zip(test, scores, strict=True)
    members = [(c, own) for c, own in pairs if plain_id(data.campaign_ids[c]) in judged]
    if not members:
        return [], []
    campaigns, own = zip(*members, strict=True)
    gains = pool_gains(data, campaigns, own)
    if not log_odds:
        return gains, []
    labels = np.concatenate([data.stage2.label[data.stage2.of(c)] for c in campaigns])
    predicted = [pool_probabilities(data, c, s) for c, s in zip(campaigns, own, strict=True)]
    return gains, calibration_table(np.concatenate(predicted), labels)


def _write(path: Path, result: dict[str, Any]) -> None:
    if path.suffix.lower() == ".json":
        write_json(path, result)
        return
    names = ("decile", "users", "converts", "rate", "lift", "share")
    rows = (
        (group, *(row[name] for name in names))
        for group, tables in result["groups"].items()
        for row in tables["gains"]
    )
    write_csv(path, ("seed_sets", *names), rows)


def _figures(result: dict[str, Any], threshold: int) -> TextTable:
    rows = []
    for group, sign in GROUPS.items():
        members = [c for c in result["campaigns"] if c["group"] == group]
        cells = ["-"] * 3
        if members:
            cells = [f"{np.mean([c[m] for c in members]):.4f}" for m in _METRICS]
        rows.append([f"{sign} {threshold:,} seeds", str(len(members)), *cells])
    header = ["seed sets", "campaigns", "AUC", f"P@{PERCENT:g}%", f"R@{PERCENT:g}%"]
    return TextTable("", header, rows)
