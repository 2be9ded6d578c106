"""Simulated weeks of MetaHeac against control methods (paper section 4.3, Table 3).

The paper's test ran in production. This one runs in simulated worlds, which answer by the true
conversion probability of every user and campaign. There is a world for each of the paper's three
applications and each week, with its own campaigns, users and models.

- **Campaigns.** The test campaigns of the paper's split run for a week. The general model learns
  from the other campaigns, before the week.
- **Candidates** are the users without an example in stage 1. For every campaign they are split at
  random into two buckets of equal size, one for each arm.
- **Each day** an arm expands every running campaign to the users of its bucket with the highest
  scores, as many as the other arm. Those of them who are active on that day see the campaign
  (*exposure*) and may convert (*conversion*); they leave the bucket. *CVR* is conversions over
  exposures.
- **Feedback.** The answers are added to the arm's data as rows of examples, and every day its
  general model is customised again to the running campaigns.
- **Lifts** are ratios of a week's totals over campaigns. A report has the geometric mean over the
  weeks, with the 95% interval of Student's t. Weeks are independent; campaigns of an arm are not.
  In the A/A test both arms have the method of the treatment.

Axes: W weeks, U users, C running campaigns, P users of a bucket.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import scipy.stats

import metaheac_jax as mh
from experiments.comparison.methods import build_methods
from experiments.comparison.origin import PLACES, command_of, provenance
from experiments.comparison.run import forget_compiled
from experiments.comparison.tables import Table
from experiments.sources.simulated import World, open_world
from experiments.sources.splits import paper_split
from metaheac_jax.cli import terminal
from metaheac_jax.data.adding import add
from metaheac_jax.data.batches import generator
from metaheac_jax.data.simulation.shapes import PERSONA, TENCENT_WORLD
from metaheac_jax.data.simulation.truth import read_truth, show
from metaheac_jax.errors import InputError, check_whole
from metaheac_jax.files import locked, write_json
from metaheac_jax.methods.method import Method
from metaheac_jax.progress import Progress, prefixed

DAYS = 7
#: Campaigns of an application, of which 40% run.
CAMPAIGNS = 60
#: Share of its bucket that an arm takes for each campaign on each day.
AUDIENCE = 0.02
#: The conversion rate of each application, as a multiple of the Tencent data's rate, 1:20. The
#: paper does not state these rates. Besides the seed, nothing else differs between applications.
APPLICATIONS = {"video": 2.0, "advertisements": 1.0, "article": 1.5}
#: A user is active on a day with probability sigmoid(a + b t), where t is the mean of the user's
#: traits `ACTIVE_TRAITS`; the mean over users is 0.4. Methods do not influence it.
ACTIVITY = (-0.45, 1.0)
ACTIVE_TRAITS = ("apps", "browsing")
#: The stream of random numbers that splits candidates; those of the days follow. Training and
#: customising share the week's seed, and their streams count from 0.
BUCKETS = 1 << 63
MEASURES = ("exposure", "conversion", "CVR")
#: Lifts of `MEASURES` as the paper's Table 3 prints them. The printed lift of CVR does not follow
#: from the other two.
PUBLISHED = {
    "video": (0.0307, 0.1018, 0.0790),
    "advertisements": (0.0065, 0.1550, 0.1540),
    "article": (0.0318, 0.0923, 0.0464),
}
NOTES = (
    "Mean of the weeks' lifts (geometric) and its 95% interval, Student's t over the weeks. "
    "Experiments of an application share the treatment arm.",
    "A/A: both arms have the treatment's method. One interval in twenty misses 0 by chance.",
    "[paper]: the paper's own figures, of a production system, not of this simulation.",
)


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulates weeks of MetaHeac against control methods in three applications, and an A/A test.

    Prints the lifts of exposure, conversion and conversion rate with 95% intervals, and writes
    results.json to --out.
    """

    treatment: str = "metaheac"
    """Method of the treatment arm, and of both arms of the A/A test."""
    control: tuple[str, ...] = ("mlp-one-stage", "mlp-pretraining")
    """Methods of the control arms. Each is tested against the treatment."""
    weeks: int = 5
    """Repetitions of the test, at least two. Each has its own worlds, splits, buckets, outcomes and
    models. The intervals are over weeks."""
    users: int = 60_000
    """Users of each application's simulated world; there are four examples for five users."""
    out: Path = Path("runs/live_week")
    """Folder for the results."""
    resume: bool = False
    """Continue the test in --out: finished arms stay, so methods and weeks may be added. (Adding
    weeks until an interval excludes 0 proves nothing.)"""
    cache_dir: Path = field(default_factory=terminal.cache_folder)
    """Folder for simulated worlds and prepared data, which later tests use again."""


def main(options: Options) -> None:
    """Runs the command."""
    if options.treatment in options.control:
        raise InputError(
            f"--control: {options.treatment} is the treatment, which the A/A test compares with "
            "itself anyway"
        )
    check_whole("--weeks", options.weeks, 2)
    check_whole("--users", options.users, 1)
    names = (options.treatment, *options.control)
    methods = {method.name: method for method in build_methods(names, world="tencent")}
    terminal.keep_compiled()
    with locked(options.out), terminal.progress_display() as progress:
        found = run_weeks(options, methods, progress)
        kept = {name: value for name, value in asdict(options).items() if name not in PLACES}
        tests = [
            {"application": application, "test": title, "counts": counts.tolist()}
            | {"lifts": dict(zip(MEASURES, week_lifts(counts).tolist(), strict=True))}
            for application, experiments in found.items()
            for title, counts in experiments.items()
        ]
        about = {"commands": [command_of(options)], "provenance": provenance()}
        write_json(options.out / "results.json", {**about, "options": kept, "tests": tests})
    terminal.screen().print(Table("Lifts", *lift_table(found)).rich())
    terminal.print_lines(*NOTES, f"the counts are in {options.out / 'results.json'}")


def run_weeks(
    options: Options, methods: dict[str, Method], progress: Progress
) -> dict[str, dict[str, np.ndarray]]:
    """(W, 2, 2) exposures and conversions of control and treatment, by application and test."""
    treatment = methods[options.treatment]
    found: dict[str, dict[str, np.ndarray]] = {}
    for application in APPLICATIONS:
        found[application] = {}
        weeks = [Week(application, options.users, week) for week in range(options.weeks)]
        for name in (*options.control, options.treatment):
            arms = (methods[name], 0), (treatment, 1)
            counts = [[arm_counts(options, week, *arm, progress) for arm in arms] for week in weeks]
            title = f"{treatment.label} against {methods[name].label}"
            title = f"A/A: {treatment.label}" if name == options.treatment else title
            found[application][title] = np.array(counts)
    return found


@dataclass(frozen=True)
class Week:
    """A week of an application.

    Attributes:
      application: one of `APPLICATIONS`.
      users: number of users in its world.
      seed: random seed of the week.
    """

    application: str
    users: int
    seed: int

    @property
    def name(self) -> str:
        """The beginning of its file names."""
        return f"{self.application}-seed-{self.seed}"

    @property
    def world(self) -> World:
        """Its world: the Tencent data's with fewer campaigns and the application's conversion rate.

        Every application derives a different seed from that of the week.
        """
        share, rate = CAMPAIGNS / TENCENT_WORLD.campaigns, APPLICATIONS[self.application]
        counts = ("advertisers", "campaign_ids", "sizes", "categories", "products", "product_types")
        rates = ("rate_min", "rate_mean", "rate_sd", "rate_max")
        changed: dict[str, Any] = {name: rate * getattr(TENCENT_WORLD, name) for name in rates}
        changed |= {name: max(2, round(share * getattr(TENCENT_WORLD, name))) for name in counts}
        return World(
            users=self.users,
            min_pool_examples=0,
            seed=len(APPLICATIONS) * self.seed + list(APPLICATIONS).index(self.application),
            shape=replace(TENCENT_WORLD, name=self.application, campaigns=CAMPAIGNS, **changed),
        )


def arm_counts(
    options: Options, week: Week, method: Method, bucket: int, progress: Progress
) -> list[int]:
    """Exposures and conversions of an arm, which is run unless --out has it with this week."""
    name = f"{week.name}-{method.name}-{'AB'[bucket]}"
    path = options.out / "arms" / f"{name}.json"
    same = json.loads(json.dumps({"week": asdict(week), "settings": method.config.plain()}))
    if options.resume and path.is_file():
        stored = json.loads(path.read_text())
        if {key: stored[key] for key in same} != same:
            raise InputError(f"{path}: began with other options; start afresh without --resume")
        return stored["counts"]
    counts = run_arm(
        week,
        method,
        bucket,
        folder=options.out / "checkpoints",
        cache_dir=options.cache_dir,
        progress=prefixed(progress, f"{week.name}, {method.label}, {'AB'[bucket]}: "),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**same, "counts": counts})
    return counts


def run_arm(
    week: Week, method: Method, bucket: int, *, folder: Path, cache_dir: Path, progress: Progress
) -> list[int]:
    """Runs an arm for a week; returns its numbers of exposures and of conversions.

    Args:
      week: what to run.
      method: trains and customises the arm's models.
      bucket: 0 or 1, the half of the candidates.
      folder: for checkpoints. Arms of one method share the general model.
      cache_dir: folder of simulated worlds and prepared data.
      progress: receives what is being done.

    Raises:
      InputError: a campaign cannot be trained on, or the audience has no user.
      Diverged: a score is not a number.
    """
    world, own = week.world.folder(cache_dir), folder / f"{week.name}-{method.name}-{bucket}"
    before = open_world(week.world, cache_dir, progress=progress)
    assert before.folder is not None
    split, truth = paper_split(before, week.seed), read_truth(world)[0]
    activity = daily_activity(truth.traits)[np.searchsorted(truth.user_ids, before.user_ids)]
    candidates = split_candidates(before, split.test, week.seed)[bucket]
    size = round(AUDIENCE * candidates.shape[1])
    general = mh.fit(
        before,
        method,
        campaigns=split.train,
        seed=week.seed,
        directory=folder / f"{week.name}-{method.name}",
        progress=progress,
    )
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(before.folder, own / "data")
    data, left, counts = mh.open_dataset(own / "data"), list(candidates), np.zeros(2, int)
    for day in range(DAYS):
        told = prefixed(progress, f"day {day + 1} of {DAYS}, ")
        active = generator(week.seed, BUCKETS + 1 + day).random(data.num_users) < activity
        shown = []
        for place, index in enumerate(split.test):
            campaign, pool = int(data.campaign_ids[index]), data.user_ids[left[place]]
            audience = mh.expand(general, data, campaign, size=size, pool=pool, seed=week.seed)
            users = data.find_users(audience["user_id"])
            users = users[active[users]]
            left[place] = np.setdiff1d(left[place], users)
            ids = data.user_ids[users]
            shown.append(pl.DataFrame({"campaign_id": np.full(len(ids), campaign), "user_id": ids}))
            told("expand", place + 1, len(split.test))
        answers = show(world, pl.concat(shown), seed=DAYS * week.seed + day)
        counts += len(answers), int(answers["label"].sum())
        data = add(data, examples=answers)
        forget_compiled()
    shutil.rmtree(own)
    return counts.tolist()


def daily_activity(traits: np.ndarray) -> np.ndarray:
    """(U, D) traits of users -> (U,) probability of being active on a day; see `ACTIVITY`."""
    level = traits[:, [PERSONA.index(name) for name in ACTIVE_TRAITS]].mean(axis=1)
    return 1 / (1 + np.exp(-(ACTIVITY[0] + ACTIVITY[1] * level)))


def split_candidates(data: mh.Dataset, running: np.ndarray, seed: int) -> np.ndarray:
    """(2, C, P) users: two random halves of the candidates for every running campaign.

    Every campaign has its own split, because with a single one all campaigns that seek the same
    users would share their luck. If the number of candidates is odd, one is left out.
    """
    candidates = np.setdiff1d(np.arange(data.num_users), data.stage1.user)
    rng, half = generator(seed, BUCKETS), len(candidates) // 2
    halves = [rng.permutation(candidates)[: 2 * half].reshape(2, half) for _ in running]
    return np.stack(halves, axis=1)


# Lifts ------------------------------------------------------------------------------------------


def week_lifts(counts: np.ndarray) -> np.ndarray:
    """(3, W) lifts of `MEASURES` in each week; NaN where a ratio is zero or not finite.

    Args:
      counts: (W, 2, 2) exposures and conversions of control and treatment.
    """
    exposed, converted = np.moveaxis(counts.astype(float), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.stack([exposed, converted, converted / exposed])  # (3, W, 2)
        lifts = values[..., 1] / values[..., 0] - 1
    return np.where(np.isfinite(lifts) & (lifts > -1), lifts, np.nan)


def mean_lifts(lifts: np.ndarray) -> np.ndarray:
    """(M, W) lifts in W repetitions -> (M, 3) geometric mean, and bounds of its 95% interval.

    The interval is that of Student's t over the logarithms of the ratios. A row is NaN if a lift
    is.
    """
    logs, count = np.log1p(lifts), lifts.shape[1]
    mean, error = logs.mean(axis=1), logs.std(axis=1, ddof=1) / np.sqrt(count)
    half = scipy.stats.t.ppf(0.975, count - 1) * error
    return np.expm1([mean, mean - half, mean + half]).T


def lift_table(
    found: Mapping[str, Mapping[str, np.ndarray]],
) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean lifts with their intervals, and the published ones.

    Args:
      found: (W, 2, 2) counts by application and experiment.
    """
    rows = []
    for application, experiments in found.items():
        for title, counts in experiments.items():
            cells = [
                f"{mean:+.1f}% [{low:+.1f}, {high:+.1f}]"
                for mean, low, high in 100 * mean_lifts(week_lifts(counts))
            ]
            rows.append([application, title, *cells])
        published = [f"{100 * lift:+.2f}%" for lift in PUBLISHED[application]]
        rows.append([application, "MetaHeac [paper]", *published])
    return ["application", "test", *MEASURES], rows


if __name__ == "__main__":
    terminal.command(Options, main, prog="python -m experiments.live_week")
