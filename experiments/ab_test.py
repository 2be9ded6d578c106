"""Simulated weeks online: MetaHeac against a control, an arm each (paper section 4.3, Table 3).

The paper's test ran in production. This one runs in simulated worlds, whose true conversion
probability of any user and campaign is known: one for each of the paper's three applications and
each week, for the test is repeated, every time with campaigns, users and models of its own.

- **Campaigns.** The test campaigns of the paper's split run for a week; the others are what the
  general model learns from.
- **Candidates** are the users whom no example of stage 1 is of. For every campaign they are split
  at random into two equal buckets, one an arm. Each campaign has a split of its own: with one for
  all, campaigns that want the same users would share their luck, and a week would tell less.
- **Each day** an arm's models score its bucket, and it takes the same number of top-scored users as
  the other arm does. Of these, who is active that day sees the campaign (*exposure*), and converts
  with the true probability (*conversion*). Nobody is shown a campaign twice: who saw it leaves the
  bucket. *CVR* is conversions over exposures.
- **Feedback.** Whom the arm exposed becomes an example of the campaign, with the outcome, and goes
  back into both models, as in the deployed system: every day the general model is trained anew, on
  all campaigns, and the customised models are fitted anew, from it. (The general model has then
  seen the examples that the online stage holds out to tell when to stop, so arms with one keep it
  a little too readily; an arm that learns from nothing has none. ``--general-every`` makes it
  rarer; the first one, from before the week, has not seen them.)
- **Lifts** are of a week's totals over campaigns; what is told is their geometric mean over the
  weeks, with the 95% interval of Student's t. Weeks are what is independent. Campaigns are not: all
  of an arm share its general model, which learns from its own feedback, so the two arms' models
  part even where they are of one method. (A bootstrap over a week's campaigns does not see that: of
  nine such intervals of an A/A test, five left out 0.) In the A/A test both arms have the
  treatment's method.

Axes: W weeks, C campaigns that run, U users, P users of a bucket.
"""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import scipy.stats
import tyro

from experiments import console as ui
from experiments import report, tuning
from experiments.job import (
    check_run,
    forget_compiled,
    keep_settings,
    open_run,
    write_json,
    write_text,
)
from experiments.methods import METHODS, check_methods
from experiments.methods.method import Job, Method
from metaheac_jax.data import tencent
from metaheac_jax.data.dataset import Dataset, Examples, group_by_campaign, open_dataset
from metaheac_jax.data.sampling import generator
from metaheac_jax.data.simulation import (
    PERSONA,
    TENCENT,
    Shape,
    Truth,
    read_truth,
    write_world,
)
from metaheac_jax.data.splits import Split, paper_split
from metaheac_jax.errors import InputError
from metaheac_jax.metrics import top
from metaheac_jax.offline import Diverged
from metaheac_jax.presets import PAPER, Preset
from metaheac_jax.progress import Progress

mpl.use("Agg")
import matplotlib.pyplot as plt

#: What tells the applications apart, besides the seed of their worlds: how readily users convert,
#: as a multiple of the Tencent data's rate, 1:20. The paper does not say; content is followed more
#: readily than an advertisement.
APPLICATIONS = {"video": 2.0, "advertisements": 1.0, "article": 1.5}
MEASURES = ("exposure", "conversion", "CVR")
#: The paper's Table 3, as printed: its CVR does not follow from the other two.
PUBLISHED = {
    "video": (0.0307, 0.1018, 0.0790),
    "advertisements": (0.0065, 0.1550, 0.1540),
    "article": (0.0318, 0.0923, 0.0464),
}
#: A user is active on a day with the probability sigmoid(a + b t), t being the mean of what the
#: world tells of the user's traits ``apps`` and ``browsing``: .4 on average. No method decides it.
ACTIVITY = (-0.45, 1.0)
CONFIDENCE = 0.95
#: Streams of random numbers, by what they are for; a day's own follow.
_BUCKETS, _DAYS = 0, 1
OUTPUTS = ("results.json", "report.md", "lifts.png")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Simulated weeks of MetaHeac against controls, in three applications, and an A/A test.

    Writes results.json, report.md and a figure into --out and prints the lifts of exposure,
    conversion and conversion rate, with 95% intervals.
    """

    treatment: str = "metaheac"
    """Method of the treatment arm, and of both arms of the A/A test; any that there is."""
    control: tuple[str, ...] = ("mlp-one-stage", "mlp-pretraining")
    """Methods of the control arm, each in a test of its own against the treatment."""
    weeks: int = 5
    """Repetitions of the test, at least two, each with its own worlds, splits, buckets, outcomes
    and models: what the intervals are over."""
    days: int = 7
    """Days of a test."""
    users: int = 60_000
    """Users of each application's simulated world; four examples for every five users."""
    campaigns: int = 60
    """Campaigns of each application; 40% of them run in the test, the others are learned from."""
    audience: float = 0.02
    """Share of its bucket that an arm takes for each campaign every day."""
    general_every: int = 1
    """Train the general model again every so many days, with the feedback; as many as --days: only
    before the test. Customised models are fitted anew every day in any case."""
    seed: int = 0
    """Of the first week; the others follow."""
    out: Path = Path("runs/ab_test")
    """Folder for the results; a test there is replaced, unless --resume."""
    resume: bool = False
    """Go on with the test in --out where it stopped; arms that are done stay, so other methods, and
    weeks, may be added. (Adding weeks until an interval leaves out 0 proves nothing.)"""
    cache_dir: Path = field(default_factory=ui.cache_folder)
    """Folder for simulated worlds and prepared data, which later tests use again."""


@dataclass(frozen=True)
class World:
    """An application.

    Attributes:
      dataset: of all campaigns, without any feedback.
      split: its test campaigns are those that run.
      truth: users and campaigns by position in the dataset.
      activity: (U,) probability that a user is active on a day.
    """

    dataset: Dataset
    split: Split
    truth: Truth
    activity: np.ndarray


@dataclass(frozen=True)
class Experiment:
    """A treatment arm against a control arm in one application.

    Attributes:
      application: name.
      title: whom against whom.
      counts: (W, 2, 2) exposures and conversions of all campaigns in a week, control first.
    """

    application: str
    title: str
    counts: np.ndarray


def main(options: Options) -> None:
    """Runs the command."""
    check_options(options)
    ui.keep_compiled()
    screen = ui.screen()
    config = asdict(options) | {"settings": asdict(PAPER)}
    for name in ("treatment", "control", "weeks", "out", "resume", "cache_dir"):
        del config[name]
    open_run(options.out, config, resume=options.resume)
    if not options.resume:
        for name in OUTPUTS:
            (options.out / name).unlink(missing_ok=True)
    with ui.progress_display(screen) as progress:
        tests = [
            test
            for application in APPLICATIONS
            for test in run_application(options, application, progress)
        ]
    write(options, tests, screen)


def check_options(options: Options) -> None:
    """Refuses options that no test can have.

    Raises:
      InputError: it names the option.
    """
    check_methods((options.treatment, *options.control))
    if options.treatment in options.control:
        raise InputError(f"--control: {options.treatment} is the treatment, which A/A tests anyway")
    for option, value, least in (
        ("--weeks", options.weeks, 2),
        ("--days", options.days, 1),
        ("--users", options.users, 1),
        ("--campaigns", options.campaigns, 10),
        ("--general-every", options.general_every, 1),
        ("--seed", options.seed, 0),
    ):
        ui.check_least(option, value, least)
    if not 0 < options.audience * options.days <= 1:
        raise InputError(
            f"--audience: expected a share above 0 and at most 1 / days, got {options.audience}"
        )


# The worlds -------------------------------------------------------------------------------------


def shape_of(application: str, campaigns: int) -> Shape:
    """The Tencent twin with fewer campaigns, and what they are made of, and another rate."""
    counts = ("advertisers", "campaign_ids", "sizes", "categories", "products", "product_types")
    rates = ("rate_least", "rate_mean", "rate_sd", "rate_most")
    share, rate = campaigns / TENCENT.campaigns, APPLICATIONS[application]
    changes: dict[str, Any] = {n: max(2, round(share * getattr(TENCENT, n))) for n in counts}
    changes |= {n: rate * getattr(TENCENT, n) for n in rates}
    return replace(TENCENT, name=application, campaigns=campaigns, **changes)


def load_world(options: Options, application: str, seed: int, progress: Progress) -> World:
    """Simulates an application's world of the week of a seed, or takes it from the cache."""
    own = len(APPLICATIONS) * seed + list(APPLICATIONS).index(application)
    size = f"{options.users}-users-{options.campaigns}-campaigns"
    source = options.cache_dir / f"simulated-{application}-{size}-seed-{own}"
    target = source.with_name(f"prepared-{source.name}")
    if not source.is_dir():
        shape = shape_of(application, options.campaigns)
        write_world(
            source, users=options.users, pool_rows=0, seed=own, shape=shape, progress=progress
        )
    if target.is_dir():
        dataset = open_dataset(target, progress=progress)
    else:
        dataset = tencent.prepare(source, target, progress=progress)
    truth = read_truth(source)
    traits = truth.traits[np.searchsorted(truth.key, dataset.user_key)]
    truth = truth._replace(key=dataset.user_key, traits=traits)
    level = traits[:, [PERSONA.index("apps"), PERSONA.index("browsing")]].mean(axis=1)
    activity = 1 / (1 + np.exp(-(ACTIVITY[0] + ACTIVITY[1] * level)))
    return World(dataset, paper_split(dataset, seed), truth, activity)


def split_candidates(world: World, seed: int) -> np.ndarray:
    """(2, C, P) users: two random halves of the candidates for every campaign that runs.

    Candidates are all users of no stage-1 example, of an odd number all but one.
    """
    candidates = np.setdiff1d(np.arange(world.dataset.users), world.dataset.stage1.user)
    rng, half = generator(seed, _BUCKETS), len(candidates) // 2
    halves = [rng.permutation(candidates)[: 2 * half].reshape(2, half) for _ in world.split.test]
    return np.stack(halves, axis=1)


# The week ---------------------------------------------------------------------------------------


def run_application(options: Options, application: str, progress: Progress) -> list[Experiment]:
    """All tests of an application."""
    weeks = []
    for number in range(options.weeks):
        when = f"{application}, week {number + 1} of {options.weeks}"

        def told(what: str, done: int, total: int, when: str = when) -> None:
            progress(f"{when}, {what}", done, total)

        weeks.append(run_week(options, application, options.seed + number, told))
    return [
        Experiment(application, title, np.stack([week[title] for week in weeks]))
        for title in weeks[0]
    ]


def run_week(
    options: Options, application: str, seed: int, progress: Progress
) -> dict[str, np.ndarray]:
    """(2, 2) exposures and conversions in an application's week, control first, by a test's title.

    What an arm did is kept, and not done again.
    """
    world = load_world(options, application, seed, progress)
    buckets = split_candidates(world, seed)
    audience = round(options.audience * buckets.shape[2])
    if audience < 1:
        raise InputError(
            f"--audience: {options.audience} of {buckets.shape[2]} users is nobody; "
            "raise --audience or --users"
        )
    chosen = tuning.chosen_before("tencent")
    preset = tuning.with_sizes(PAPER, chosen)
    check_run(world.dataset, world.split, preset)

    def job(name: str, bucket: str = "") -> Job:
        label = METHODS[name].label + f", bucket {bucket}" * bool(bucket)
        directory = "-".join((application, f"seed-{seed}", name, *bucket))
        return Job(
            dataset=world.dataset,
            campaigns=world.split.train,
            preset=tuning.with_rates(METHODS[name].preset(preset), chosen, name),
            seed=seed,
            directory=options.out / "checkpoints" / directory,
            log=options.out / "log.jsonl",
            progress=lambda what, done, total: progress(f"{label}: {what}", done, total),
        )

    @functools.cache
    def before(name: str) -> Any:  # both arms of A/A start from one general model
        keep_settings(job(name))
        return METHODS[name].offline(job(name))

    def arm(name: str, bucket: int) -> np.ndarray:
        own = job(name, "AB"[bucket])
        path = options.out / "methods" / f"{own.directory.name}.json"
        if not path.is_file():
            counts = run_arm(
                METHODS[name],
                own,
                before(name),
                world,
                buckets[bucket],
                days=options.days,
                audience=audience,
                general_every=options.general_every,
            )
            write_json(path, {"settings": asdict(own.preset), "counts": counts.tolist()})
        shutil.rmtree(own.directory, ignore_errors=True)  # the days' general models
        return _stored(path, own.preset)

    treated = arm(options.treatment, 1)
    label = METHODS[options.treatment].label
    tests = {}
    for name in (*options.control, options.treatment):
        same = name == options.treatment
        title = f"A/A: {label}" if same else f"{label} against {METHODS[name].label}"
        tests[title] = np.stack([counts.sum(axis=(0, 1)) for counts in (arm(name, 0), treated)])
    return tests


def _stored(path: Path, settings: Preset) -> np.ndarray:
    """(days, C, 2) counts that an arm has left.

    Raises:
      InputError: they were reached with other settings.
    """
    stored = json.loads(path.read_text())
    if stored["settings"] != json.loads(json.dumps(asdict(settings))):
        raise InputError(f"{path}: reached with other settings; start afresh without --resume")
    return np.array(stored["counts"])


def run_arm(
    method: Method,
    job: Job,
    general: Any,
    world: World,
    bucket: np.ndarray,
    *,
    days: int,
    audience: int,
    general_every: int,
) -> np.ndarray:
    """What a method reaches in its bucket in the days of a test.

    Args:
      method: of the arm.
      job: of the offline stage before the test. Its seed decides who is active on a day and who
        converts, too: the same users would do the same, whatever the method.
      general: what that stage gave.
      world: the application.
      bucket: (C, P) users, a row a campaign that runs.
      days: of the test.
      audience: users that are taken for each campaign every day.
      general_every: days between trainings of the general model, the one before the test being
        the first.

    Returns:
      (days, C, 2) exposures and conversions.

    Raises:
      Diverged: a score is not a number.
    """
    dataset, running = world.dataset, world.split.test
    counts = np.zeros((days, len(running), 2), np.int64)
    left = list(bucket)
    feedback: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    for day in range(days):

        def told(what: str, done: int, total: int, day: int = day) -> None:
            job.progress(f"day {day + 1} of {days}, {what}", done, total)

        data = replace(dataset, stage1=with_feedback(dataset.stage1, feedback))
        today = replace(job, dataset=data, progress=told)
        if day and day % general_every == 0:
            # By now the running campaigns have something to teach as well.
            known = np.sort(np.concatenate([job.campaigns, running]))
            directory = job.directory / f"day-{day}"
            general = method.offline(replace(today, campaigns=known, directory=directory))
        models = method.online(today, general, running)
        rng = generator(job.seed, _DAYS + day)
        active = rng.random(dataset.users) < world.activity
        for place, (campaign, model) in enumerate(zip(running, models, strict=True)):
            users, dart = left[place], rng.random(dataset.users)
            scores = model(dataset.user_rows[users])
            if np.isnan(scores).any():
                key = dataset.campaign_key[campaign]
                raise Diverged(f"{method.label}: a score for campaign {key} is not a number")
            taken = users[top(scores, dataset.user_key[users], audience)]
            exposed = taken[active[taken]]
            whose = np.full(len(exposed), campaign)
            converted = dart[exposed] < world.truth.probability(exposed, whose)
            feedback.append((whose, exposed, converted))
            left[place] = np.setdiff1d(users, exposed)
            counts[day, place] = len(exposed), converted.sum()
            told("score", place + 1, len(running))
        forget_compiled()
    return counts


def with_feedback(
    stage: Examples, feedback: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]
) -> Examples:
    """Examples with feedback added, parts of campaigns (E,), users (E,) and outcomes (E,)."""
    campaigns = len(stage.offsets) - 1
    before = np.repeat(np.arange(campaigns), stage.counts), stage.user, stage.label
    campaign, user, label = map(np.concatenate, zip(before, *feedback, strict=True))
    return group_by_campaign(campaign, user, label, campaigns=campaigns)


# Lifts ------------------------------------------------------------------------------------------


def lifts(totals: np.ndarray) -> np.ndarray:
    """(..., 2, 2) exposures and conversions of control and treatment -> (..., 3) `MEASURES`.

    Not finite where the control has none.
    """
    exposed, converted = np.moveaxis(totals.astype(float), -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.stack([exposed, converted, converted / exposed])
        return np.moveaxis(values[..., 1] / values[..., 0] - 1, 0, -1)


def mean_lifts(counts: np.ndarray) -> np.ndarray:
    """(3, 3): of `lifts` the geometric mean over the weeks, and the bounds of its 95% interval.

    Student's t over the logarithms of the weeks' ratios. NaN if in some week an arm has none.

    Args:
      counts: (W, 2, 2) exposures and conversions of control and treatment.
    """
    weeks = len(counts)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log1p(lifts(counts))
        logs[~np.isfinite(logs)] = np.nan
        mean, error = logs.mean(axis=0), logs.std(axis=0, ddof=1) / np.sqrt(weeks)
        half = scipy.stats.t.ppf((1 + CONFIDENCE) / 2, weeks - 1) * error
        return np.expm1([mean, mean - half, mean + half])


# What is written --------------------------------------------------------------------------------


def write(options: Options, tests: Sequence[Experiment], screen: Any) -> None:
    """Prints the lifts; writes results.json, report.md and the figure."""
    results = [_result(test) for test in tests]
    title = (
        f"Lifts in {options.weeks} simulated tests of {options.days} days (seeds {options.seed} to "
        f"{options.seed + options.weeks - 1}): of each application {options.campaigns} campaigns, "
        f"40% of them running, and {options.users:,} users"
    )
    rows = []
    for application in APPLICATIONS:
        for result in results:
            if result["application"] == application:
                cells = [_cell(result["lifts"][measure]) for measure in MEASURES]
                rows.append([application, result["test"], *cells])
        printed = (f"{100 * x:+.2f}%" for x in PUBLISHED[application])
        rows.append([application, "MetaHeac [paper]", *printed])
    table = ["application", "test", *MEASURES], rows
    header = ["application", "test", "arm", *(f"{m}s" for m in MEASURES[:2]), "CVR"]
    totals = header, [row for result in results for row in _total_rows(result)]
    lines = [
        "Mean of the weeks' lifts (geometric) and its 95% interval, Student's t over the weeks. "
        "Tests of an application share the treatment arm.",
        "[paper]: the paper's own figures, of a production system, not of this simulation.",
        _verdict(results),
    ]
    draw(results, options.out / "lifts.png", title)
    config = {**asdict(options), "out": str(options.out), "cache_dir": str(options.cache_dir)}
    write_json(options.out / "results.json", {"options": config, "tests": results})
    text = [f"# A/B tests\n\n{title}\n\n{report.markdown_table(*table)}"]
    text += [f"- {line}" for line in lines]
    text += [f"\n## Totals\n\n{report.markdown_table(*totals)}", "![lifts](lifts.png)\n"]
    write_text(options.out / "report.md", "\n".join(text))
    screen.print(title, highlight=False)
    screen.print(report.rich_table(*table))
    for line in lines:
        screen.print(line, highlight=False, markup=False)
    where = f"report.md, results.json and the figure are in {options.out}"
    screen.print(where, markup=False, soft_wrap=True)


def _result(test: Experiment) -> dict[str, Any]:
    """A test as plain data; a lift that is not finite is None."""
    lift, low, high = mean_lifts(test.counts)
    weeks = lifts(test.counts)
    finite = lambda x: float(x) if np.isfinite(x) else None  # noqa: E731
    control, treatment = (
        dict(zip(("exposed", "converted"), map(int, arm), strict=True))
        for arm in test.counts.sum(axis=0)
    )
    return {
        "application": test.application,
        "test": test.title,
        "control": control,
        "treatment": treatment,
        "lifts": {
            measure: {
                "lift": finite(lift[i]),
                "low": finite(low[i]),
                "high": finite(high[i]),
                "weeks": [finite(x) for x in weeks[:, i]],
            }
            for i, measure in enumerate(MEASURES)
        },
    }


def _cell(lift: Mapping[str, Any]) -> str:
    at, low, high = (
        "-" if (x := lift[k]) is None else f"{100 * x:+.1f}" for k in ("lift", "low", "high")
    )
    return at if at == "-" else f"{at}% [{low}, {high}]"


def _total_rows(result: Mapping[str, Any]) -> list[list[str]]:
    rows = []
    for arm in ("control", "treatment"):
        exposed, converted = result[arm]["exposed"], result[arm]["converted"]
        rate = f"{converted / exposed:.4f}" if exposed else "-"
        row = [result["application"], result["test"], arm, f"{exposed:,}", f"{converted:,}", rate]
        rows.append(row)
    return rows


def _verdict(results: Sequence[Mapping[str, Any]]) -> str:
    """Whether the A/A tests came out without effect."""
    lifts = [
        (f"{result['application']}, {measure}", result["lifts"][measure])
        for result in results
        if result["test"].startswith("A/A")
        for measure in MEASURES
    ]
    known = [(name, x) for name, x in lifts if None not in (x["low"], x["high"])]
    off = [name for name, x in known if not x["low"] <= 0 <= x["high"]]
    text = f"A/A: {len(known) - len(off)} of {len(known)} intervals contain 0"
    if off:
        text += f"; not those of {'; '.join(off)}"
    chance = "One in twenty misses by chance, those of an application mostly together."
    return f"{text}. {chance}"


def draw(results: Sequence[Mapping[str, Any]], path: Path, title: str) -> None:
    """Lifts with their intervals and the weeks' own, a panel a measure; the paper's as crosses."""
    figure, panels = plt.subplots(1, 3, figsize=(12, 4), layout="constrained", sharey=True)
    names = list(dict.fromkeys(result["test"] for result in results))
    for panel, (number, measure) in zip(panels, enumerate(MEASURES), strict=True):
        for shift, name in enumerate(names):
            bars = [
                (place + 0.2 * shift, lift)
                for place, application in enumerate(APPLICATIONS)
                for result in results
                if (result["application"], result["test"]) == (application, name)
                and None not in (lift := result["lifts"][measure]).values()
            ]
            y = np.array([height for height, _ in bars])
            at, low, high = (
                100 * np.array([lift[key] for _, lift in bars]) for key in ("lift", "low", "high")
            )
            panel.errorbar(at, y, xerr=[at - low, high - at], fmt="o", capsize=3, label=name)
            for height, lift in bars:
                each = 100 * np.array(lift["weeks"])
                panel.plot(each, np.full(len(each), height), "|", color="0.4", zorder=3)
        printed = [100 * figures[number] for figures in map(PUBLISHED.__getitem__, APPLICATIONS)]
        panel.plot(printed, np.arange(len(printed)) - 0.2, "x", color="0.5", label="paper")
        panel.plot([], [], "|", color="0.4", label="a week")
        panel.axvline(0, color="0.8", linewidth=1, zorder=0)
        panel.set(xlabel=f"lift of {measure}, %", yticks=range(len(APPLICATIONS)))
        panel.set_yticklabels(list(APPLICATIONS))
    panels[0].invert_yaxis()
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    ui.run(lambda: main(tyro.cli(Options, prog="python -m experiments.ab_test")))
