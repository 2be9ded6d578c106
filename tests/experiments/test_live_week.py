"""Simulated weeks: buckets, days, feedback, lifts, and the command."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
import scipy.stats
import tyro
from toy import dataset

from experiments.comparison.provenance import describe_origin
from experiments.live_week import report, week
from experiments.live_week.__main__ import Options, main
from experiments.live_week.lifts import Experiment, lifts, mean_lifts
from experiments.live_week.week import Arm, Schedule
from experiments.live_week.worlds import (
    APPLICATIONS,
    World,
    audience_size,
    load_world,
    split_candidates,
)
from metaheac_jax.data.simulation import Truth
from metaheac_jax.data.splits import paper_split
from metaheac_jax.errors import Diverged, InputError
from metaheac_jax.methods import METHODS, Method, method_named
from metaheac_jax.methods.stages import Trained
from metaheac_jax.progress import silent
from metaheac_jax.settings import PAPER

NUM_USERS, NUM_CAMPAIGNS = 3001, 60
ROWS = np.random.default_rng(7).normal(size=dataset(users=10, per_campaign=5, pool=5).num_rows + 1)
ROWS[-1] = 0  # of the pad id


def toy_world():
    """Users with the tokens that `WELL` looks for convert more often, and are more active."""
    data = dataset(users=NUM_USERS, campaigns=NUM_CAMPAIGNS, per_campaign=20, pool=20)
    liking = ROWS[data.user_rows].sum(axis=1, keepdims=True)
    own = np.random.default_rng(1).normal(size=(1, NUM_CAMPAIGNS))
    truth = Truth(
        key=data.user_ids,
        aid=data.campaign_ids,
        traits=liking.astype(np.float32),
        pairs=np.zeros((2, 1, 0)),
        weights=0.8 + 0.2 * own,
        intercept=np.full(NUM_CAMPAIGNS, -2.0),
    )
    activity = 1 / (1 + np.exp(-liking[:, 0] / 2))
    return World(data, paper_split(data, 0), truth, activity)


WORLD = toy_world()
RUNNING = WORLD.split.test


def fake_method(scorer, train=lambda run: Trained({})):
    """A method without any cost, whose models all score with one function."""

    def adapt(run, state, campaigns):
        return [scorer] * len(campaigns)

    return Method(name="fake", label="Fake", settings=PAPER, train=train, adapt=adapt)


WELL = fake_method(lambda users: ROWS[users].sum(axis=1))
#: Its users are about as active as others, so that only their tastes tell the two apart.
BADLY = fake_method(lambda users: (users[:, 1] * 7919 % 31).astype(float))


def run_arm(
    method,
    bucket,
    *,
    seed=0,
    world=WORLD,
    directory=Path("unused"),
    num_days=2,
    audience=20,
    general_every=9,
):
    arm = Arm(method=method, world=world, bucket=bucket, seed=seed, directory=directory)
    general = method.fit(world.dataset, campaigns=world.split.train)
    schedule = Schedule(num_days=num_days, audience=audience, general_every=general_every)
    return week.run_arm(arm, general, schedule)


def compared(control, treatment, seeds):
    """(W, 2, 2) counts of an experiment, one week for each seed."""
    weeks = []
    for seed in seeds:
        arms = zip((control, treatment), split_candidates(WORLD, seed), strict=True)
        counts = [run_arm(method, bucket, seed=seed) for method, bucket in arms]
        weeks.append([of.sum(axis=(0, 1)) for of in counts])
    return np.array(weeks)


# Buckets and days -------------------------------------------------------------------------------


def test_buckets_are_equal_disjoint_and_of_candidates_only():
    candidates = np.setdiff1d(np.arange(NUM_USERS), WORLD.dataset.stage1.user)
    first, second = split_candidates(WORLD, 0)
    assert first.shape == second.shape == (len(RUNNING), len(candidates) // 2)
    for a, b in zip(first, second, strict=True):
        both = np.concatenate([a, b])
        assert len(np.unique(both)) == len(both) >= len(candidates) - 1
        assert np.isin(both, candidates).all()
    # At random, for each campaign by itself: two campaigns' halves share half of their users.
    shared = [len(np.intersect1d(first[0], other)) / len(other) for other in first[1:]]
    assert np.mean(shared) == pytest.approx(0.5, abs=0.02)
    other = split_candidates(WORLD, 1)[0]
    assert not np.array_equal(other, first)
    np.testing.assert_array_equal(split_candidates(WORLD, 0), [first, second])


def test_the_top_users_of_the_bucket_are_taken_and_only_who_is_active_is_exposed():
    everybody = replace(WORLD, activity=np.ones(NUM_USERS))
    bucket = split_candidates(WORLD, 0)[0]
    counts = run_arm(WELL, bucket, world=everybody, num_days=3, audience=20)
    assert (counts[..., 0] == 20).all()  # as many for every method, campaign and day
    nobody = replace(WORLD, activity=np.zeros(NUM_USERS))
    assert not run_arm(WELL, bucket, world=nobody).any()

    # All that are taken see it, and leave: after three days the best 60 have, in that order.
    seen = Recorder()
    run_arm(seen.method, bucket, world=everybody, num_days=4, audience=20)
    score = ROWS[WORLD.dataset.user_rows].sum(axis=1)
    key = WORLD.dataset.user_ids
    for place, campaign in enumerate(RUNNING):
        best = sorted(bucket[place], key=lambda u: (-score[u], key[u]))
        for day in range(4):
            shown = seen.added(day, campaign)[0]
            np.testing.assert_array_equal(np.sort(shown), np.sort(best[: 20 * day]))


def test_conversions_follow_the_truth():
    bucket = split_candidates(WORLD, 0)[0]
    certain = replace(WORLD, truth=WORLD.truth._replace(intercept=np.full(NUM_CAMPAIGNS, 90.0)))
    counts = run_arm(BADLY, bucket, world=certain)
    np.testing.assert_array_equal(counts[..., 0], counts[..., 1])
    never = replace(WORLD, truth=WORLD.truth._replace(intercept=np.full(NUM_CAMPAIGNS, -90.0)))
    assert not run_arm(BADLY, bucket, world=never)[..., 1].any()
    # In between: as many of all who are exposed as their probabilities add up to.
    everybody = replace(WORLD, activity=np.ones(NUM_USERS))
    counts = run_arm(BADLY, bucket, world=everybody, num_days=1, audience=bucket.shape[1])
    p = [
        WORLD.truth.probability(u, np.full(len(u), c)) for u, c in zip(bucket, RUNNING, strict=True)
    ]
    p = np.stack(p)
    error = np.sqrt((p * (1 - p)).sum())
    assert abs(counts[..., 1].sum() - p.sum()) < 4 * error


def test_a_user_acts_in_the_same_way_whoever_else_is_exposed():
    first, second = np.arange(0, 2000), np.arange(1000, 3000)[::-1]
    one, other = (
        week.expose(WORLD, RUNNING[0], users, np.random.default_rng(3)) for users in (first, second)
    )
    outcomes = dict(zip(other.user, other.converted, strict=True))
    assert one.converted[1000:].tolist() == [outcomes[user] for user in first[1000:]]
    assert 0 < one.converted[1000:].sum() < 1000


# Feedback ---------------------------------------------------------------------------------------


class Recorder:
    """A method that keeps the runs of its two stages."""

    def __init__(self):
        self.trainings, self.days = [], []

        def train(run):
            self.trainings.append(run)
            return Trained({})

        def adapt(run, state, campaigns):
            self.days.append(run.dataset)
            for campaign in campaigns:
                index = int(np.searchsorted(run.dataset.campaign_ids, campaign.id))
                of = run.dataset.stage1.of(index)
                np.testing.assert_array_equal(campaign.users, run.dataset.stage1.user[of])
            return [lambda users: ROWS[users].sum(axis=1)] * len(campaigns)

        self.method = replace(WELL, train=train, adapt=adapt)

    def added(self, day, campaign):
        """Users and labels that a campaign has got by a day, in the order they came."""
        now, before = self.days[day].stage1, WORLD.dataset.stage1
        own, old = now.of(campaign), before.of(campaign)
        count = old.stop - old.start
        np.testing.assert_array_equal(now.user[own][:count], before.user[old])
        np.testing.assert_array_equal(now.label[own][:count], before.label[old])
        return now.user[own][count:], now.label[own][count:]


def test_feedback_of_a_day_is_in_the_next_days_training_set():
    seen, bucket = Recorder(), split_candidates(WORLD, 0)[1]
    counts = run_arm(seen.method, bucket, num_days=3)
    assert len(seen.trainings) == 1  # before the week
    for place, campaign in enumerate(RUNNING):
        for day in range(3):
            users, labels = seen.added(day, campaign)
            until = counts[:day, place].sum(axis=0)
            assert (len(users), labels.sum()) == tuple(until)
            assert np.isin(users, bucket[place]).all()
            assert len(np.unique(users)) == len(users)
    assert counts[..., 1].sum() > 0
    for campaign in WORLD.split.train:
        assert len(seen.added(2, campaign)[0]) == 0


def test_the_general_model_learns_from_feedback_when_it_is_asked_to(tmp_path):
    seen, bucket = Recorder(), split_candidates(WORLD, 0)[1]
    run_arm(seen.method, bucket, num_days=5, general_every=2, directory=tmp_path)
    before, *trainings = seen.trainings
    np.testing.assert_array_equal(before.campaigns, WORLD.split.train)
    assert [run.directory for run in trainings] == [tmp_path / "day-2", tmp_path / "day-4"]
    for run, day in zip(trainings, (2, 4), strict=True):
        np.testing.assert_array_equal(run.campaigns, np.arange(NUM_CAMPAIGNS))
        assert run.dataset is seen.days[day]


def test_campaigns_that_run_are_not_held_out_of_the_training(tmp_path, monkeypatch):
    seen, bucket, kept = Recorder(), split_candidates(WORLD, 0)[1], []
    fit = Method.fit
    monkeypatch.setattr(
        Method,
        "fit",
        lambda *args, never_held_out=(), **more: kept.append(never_held_out) or fit(*args, **more),
    )
    run_arm(seen.method, bucket, num_days=3, general_every=1, directory=tmp_path / "arm")
    assert [list(keep) for keep in kept] == [[], [*RUNNING], [*RUNNING]]


def test_a_score_that_is_not_a_number_is_named():
    bucket = split_candidates(WORLD, 0)[0]
    with pytest.raises(Diverged, match=r"campaign \d+: a score of fake is not a number"):
        run_arm(fake_method(lambda users: np.full(len(users), np.nan)), bucket)


# Lifts ------------------------------------------------------------------------------------------


def test_lifts_by_hand():
    # 200 exposed and 10 converted in the control arm, 220 and 22 in the other.
    np.testing.assert_allclose(lifts(np.array([[200, 10], [220, 22]])), [0.1, 1.2, 1.0], rtol=1e-12)
    assert not np.isfinite(lifts(np.array([[200, 0], [220, 22]])))[1:].any()


def test_intervals_are_students_over_the_weeks():
    counts = compared(BADLY, WELL, range(4))
    found = mean_lifts(counts)
    ratios = [[e1 / e0, c1 / c0, c1 / e1 * e0 / c0] for (e0, c0), (e1, c1) in counts]
    for measure, logs in enumerate(np.log(ratios).T):
        bounds = scipy.stats.ttest_1samp(logs, 0).confidence_interval(0.95)
        expected = np.exp([logs.mean(), *bounds]) - 1
        np.testing.assert_allclose(found[:, measure], expected, rtol=1e-10)


def test_a_week_without_a_conversion_has_no_lift_of_conversions():
    for arm in (0, 1):
        counts = np.array([[[200, 10], [220, 22]]] * 3)
        counts[1, arm, 1] = 0
        found = mean_lifts(counts)
        assert np.isfinite(found[:, 0]).all()
        assert np.isnan(found[:, 1:]).all()


def test_a_better_method_has_a_lift_of_conversions():
    counts = compared(BADLY, WELL, range(3))  # exposures follow from who is active
    assert (mean_lifts(counts)[1, 1:] > 0).all()
    assert (mean_lifts(counts[:, ::-1])[2, 1:] < 0).all()


@pytest.mark.long
def test_nothing_comes_of_a_test_of_a_method_against_itself():
    def adapt(run, state, campaigns):
        # By chance the general model likes a gender, for all campaigns of the arm alike.
        rng = np.random.default_rng(run.dataset.stage1.user)  # what the arm has learned from
        liking = 3 * rng.random() * rng.normal(size=2)
        of = lambda users: ROWS[users].sum(axis=1) + liking[users[:, 0]]  # noqa: E731
        return [of] * len(campaigns)

    lucky, repeats, weeks = replace(WELL, adapt=adapt), 40, 4
    counts = compared(lucky, lucky, range(repeats * weeks)).reshape(repeats, weeks, 2, 2)
    found = np.array([mean_lifts(test) for test in counts])
    within = (found[:, 1] <= 0) & (found[:, 2] >= 0)
    # 95% intervals: of 40 some 2 miss 0, more than 6 of one measure once in three hundred times.
    assert (within.sum(axis=0) >= repeats - 6).all()
    assert not within.all()  # nor are they so wide that nothing would show
    logs = np.log1p(found[:, 0])
    assert (np.abs(logs.mean(axis=0)) < 4 * logs.std(axis=0) / np.sqrt(repeats)).all()


# The command ------------------------------------------------------------------------------------

TINY = ("--users", 7000, "--campaigns", 20, "--days", 2, "--audience", 0.1, "--weeks", 2)


def command(*arguments):
    main(tyro.cli(Options, args=[str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def one_application():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("video", "advertisements"):
            patch.delitem(APPLICATIONS, name)
        patch.setitem(APPLICATIONS, "article", 4.0)
        yield


@pytest.fixture(scope="module")
def finished(one_application, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ab")
    options = ("--treatment", "cosine", "--control", "prior", *TINY)
    options += ("--out", directory / "out", "--cache-dir", directory / "cache")
    command(*options)
    return directory / "out", options


@pytest.mark.slow
def test_a_test_leaves_all_that_it_promises(finished):
    out, _ = finished
    weeks, arms = (0, 1), ("cosine-A", "cosine-B", "prior-A")
    names = [f"article-seed-{week}-{arm}" for week in weeks for arm in arms]
    assert {path.stem for path in (out / "methods").iterdir()} == {*names}
    assert (out / "lifts.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    tests = {test["test"]: test for test in results["tests"]}
    labels = [method_named(name).label for name in ("cosine", "prior")]
    assert list(tests) == [f"{labels[0]} against {labels[1]}", f"A/A: {labels[0]}"]
    counts = {
        name: np.array(json.loads((out / "methods" / f"{name}.json").read_text())["counts"])
        for name in names
    }
    assert all(of.shape == (2, 8, 2) for of in counts.values())
    assert len({of.tobytes() for of in counts.values()}) == len(names)  # no week is another's
    for test, control in zip(tests.values(), ("prior-A", "cosine-A"), strict=True):
        both = {
            side: np.array([counts[f"article-seed-{w}-{arm}"].sum(axis=(0, 1)) for w in weeks])
            for side, arm in (("control", control), ("treatment", "cosine-B"))
        }
        for side, of in both.items():
            assert list(test[side].values()) == of.sum(axis=0).tolist()
        for number, measure in enumerate(("exposure", "conversion")):
            lift = test["lifts"][measure]
            ratios = both["treatment"][:, number] / both["control"][:, number]
            assert lift["weeks"] == pytest.approx(ratios - 1)
            assert lift["lift"] == pytest.approx(np.sqrt(ratios.prod()) - 1)
        for lift in test["lifts"].values():
            assert lift["low"] < lift["lift"] < lift["high"]
    text = (out / "report.md").read_text()
    assert "| article | MetaHeac [paper] | +3.18% | +9.23% | +4.64% |" in text
    assert "[paper]: the paper's own figures" in text
    assert "intervals contain 0" in text
    # Three arms in each of two weeks.
    arms = [json.loads((out / "methods" / f"{name}.json").read_text()) for name in names]
    origin = describe_origin({}, arms)
    assert f"jax {jax.__version__}; " in origin
    assert text.count(origin) == 2  # under each table
    command = "python -m experiments.live_week --treatment cosine --control prior --weeks 2"
    assert f"`{command} --days 2 --users 7000 --campaigns 20 --audience 0.1`; sim" in text
    assert str(out) not in (out / "results.json").read_text()


@pytest.mark.slow
def test_the_worlds_truth_is_that_of_the_data(finished):
    out, _ = finished
    world = load_world(
        "article",
        num_users=7000,
        num_campaigns=20,
        seed=1,
        cache_dir=out.parent / "cache",
        progress=silent,
    )
    stage = world.dataset.stage1
    campaign = np.repeat(np.arange(20), stage.counts)
    found = world.truth.probability(stage.user, campaign)
    np.testing.assert_allclose(found, stage.probability, rtol=1e-5)
    # Four times the Tencent data's rate; and users are active on some four days of ten.
    assert stage.label.mean() == pytest.approx(4 * 0.0478, abs=0.01)
    assert world.activity.mean() == pytest.approx(0.4, abs=0.03)
    assert world.activity.std() > 0.1


@pytest.mark.slow
def test_a_test_resumes_with_what_is_done(finished, monkeypatch, capsys):
    out, options = finished
    before = json.loads((out / "results.json").read_text())
    (out / "methods" / "article-seed-1-prior-A.json").unlink()
    # The treatment's arms are done, so nothing of it may be run.
    cosine, prior = METHODS["cosine"], METHODS["prior"]
    idle = lambda settings: replace(cosine(settings), train=None, adapt=None)  # noqa: E731
    monkeypatch.setitem(METHODS, "cosine", idle)
    command(*options, "--resume")
    assert json.loads((out / "results.json").read_text())["tests"] == before["tests"]
    assert "MetaHeac [paper]" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"another days.*afresh"):
        command(*options, "--resume", "--days", 3)
    monkeypatch.setitem(METHODS, "prior", lambda settings: prior(settings).with_settings(width=3))
    with pytest.raises(InputError, match=r"seed-0-prior-A.json: reached with other"):
        command(*options, "--resume")


def test_the_report_tells_the_lifts_the_totals_and_what_a_a_missed():
    none, some = np.array([[[200, 10]] * 2] * 2), np.array([[[200, 10], [220, 22]]] * 2)
    fair, off = (report.summarise(Experiment("article", "A/A: X", c)) for c in (none, some))
    assert report.verdict([fair]).startswith("A/A: 3 of 3 intervals contain 0. ")
    words = "A/A: 0 of 3 intervals contain 0; not those of article, exposure; article, conv"
    assert report.verdict([off]).startswith(words)
    off["lifts"]["exposure"] |= {"low": 0.05, "high": 0.15}
    [row] = [row for row in report.lift_table([off])[1] if row[1] == "A/A: X"]
    assert row[2] == "+10.0% [+5.0, +15.0]"
    assert report.totals_table([off])[1][0][2:] == ["control", "400", "20", "0.0500"]


@pytest.mark.slow
def test_weeks_may_be_added(finished, tmp_path):
    out, options = finished
    copy = tmp_path / "out"
    shutil.copytree(out, copy)
    times = {path.name: path.stat().st_mtime_ns for path in (copy / "methods").iterdir()}
    stray = copy / "checkpoints" / "article-seed-0-cosine-A"  # of a kill before they were removed
    stray.mkdir(parents=True)
    command(*options, "--out", copy, "--weeks", 3, "--resume")
    after = {path.name: path.stat().st_mtime_ns for path in (copy / "methods").iterdir()}
    assert times.items() <= after.items()
    added = {f"article-seed-2-{arm}.json" for arm in ("cosine-A", "cosine-B", "prior-A")}
    assert after.keys() - times.keys() == added
    tests = json.loads((copy / "results.json").read_text())["tests"]
    assert {len(test["lifts"]["exposure"]["weeks"]) for test in tests} == {3}
    assert "in 3 simulated tests of 2 days (seeds 0 to 2)" in (copy / "report.md").read_text()
    assert not stray.exists()


@pytest.mark.slow
@pytest.mark.parametrize(("option", "days"), [((), [0, 1, 1]), (("--general-every", 2), [0])])
def test_feedback_goes_back_into_both_models(finished, tmp_path, monkeypatch, option, days):
    runs = []

    def train(run):
        run.log.write_text(str(len(runs)))
        runs.append(run)
        return Trained({})

    recorder = replace(fake_method(lambda users: np.zeros(len(users)), train), name="cosine")
    monkeypatch.setitem(METHODS, "cosine", lambda settings: recorder)
    words = ("--treatment", "cosine", "--control", "prior", *TINY, *option)
    command(*words, "--out", tmp_path, "--cache-dir", finished[0].parent / "cache")
    # Each training has a log, which stays.
    assert [run.log.read_text() for run in runs] == [*map(str, range(len(runs)))]
    # Before the week on the 12 others, then every day in both arms of A/A on all 20.
    assert [run.seed for run in runs] == [0] * len(days) + [1] * len(days)
    for of_week in (runs[: len(days)], runs[len(days) :]):
        assert [len(run.campaigns) for run in of_week] == [20 if day else 12 for day in days]
        seen = [len(run.dataset.stage1.user) for run in of_week]
        assert [more > seen[0] for more in seen] == [bool(day) for day in days]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--treatment", "best"), "unknown method 'best'"),
        (("--control", "metaheac"), "--control: metaheac is the treatment"),
        (("--days", 0), "--days: expected 1 or more"),
        (("--weeks", 1), "--weeks: expected 2 or more"),
        (("--audience", 0.5), "--audience: expected a share"),
        (("--general-every", 0), "--general-every: expected 1 or more"),
        (("--campaigns", 3), "--campaigns: expected 10 or more"),
        (("--users", 5000), "pool examples for each of 60 campaigns"),
        (("--audience", 1e-6), "--audience: 1e-06 of half of .* users is less than one user"),
    ],
)
def test_options_that_no_test_can_have_are_refused(tmp_path, options, said):
    with pytest.raises(InputError, match=said):
        command(*options, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_audience_of_nobody_is_refused():
    with pytest.raises(InputError, match=r"--audience: .* is less than one user"):
        audience_size(1e-6, split_candidates(WORLD, 0))
