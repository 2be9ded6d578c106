"""The simulated A/B test: buckets, days, feedback, lifts, and the command."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tyro
from toy import dataset

from experiments import ab_test, console
from experiments.methods import METHODS
from experiments.methods.method import Job, Method
from metaheac_jax.data.simulation import Truth
from metaheac_jax.data.splits import paper_split
from metaheac_jax.offline import Diverged
from metaheac_jax.presets import PAPER
from metaheac_jax.progress import silent

USERS, CAMPAIGNS = 3001, 60
ROWS = np.random.default_rng(7).normal(size=dataset(users=10, per_campaign=5, pool=5).rows + 1)
ROWS[-1] = 0  # of the pad id


def toy_world():
    """Who has the tokens that `WELL` looks for converts more often, and is active more often."""
    data = dataset(users=USERS, campaigns=CAMPAIGNS, per_campaign=20, pool=20)
    liking = ROWS[data.user_rows].sum(axis=1, keepdims=True)
    own = np.random.default_rng(1).normal(size=(1, CAMPAIGNS))
    truth = Truth(
        key=data.user_key,
        aid=data.campaign_key,
        traits=liking.astype(np.float32),
        pairs=np.zeros((2, 1, 0)),
        weights=0.8 + 0.2 * own,
        intercept=np.full(CAMPAIGNS, -2.0),
    )
    activity = 1 / (1 + np.exp(-liking[:, 0] / 2))
    return ab_test.World(data, paper_split(data, 0), truth, activity)


WORLD = toy_world()
RUNNING = WORLD.split.test


def method(scorer):
    """A method that costs nothing."""
    return Method("fake", lambda job: None, lambda job, general, c, watch=None: [scorer] * len(c))


WELL = method(lambda users: ROWS[users].sum(axis=1))
#: About as active as others, so that only what they like tells the two apart.
BADLY = method(lambda users: (users[:, 1] * 7919 % 31).astype(float))


def run_arm(of, bucket, *, seed=0, world=WORLD, directory=Path("unused"), **options):
    job = Job(world.dataset, world.split.train, PAPER, seed, directory, None, silent)
    options = {"days": 2, "audience": 20, "general_every": 9} | options
    return ab_test.run_arm(of, job, None, world, bucket, **options)


def compared(control, treatment, seed, **options):
    """(C, 2, 2) counts of a test."""
    buckets = ab_test.split_candidates(WORLD, seed)
    arms = zip((control, treatment), buckets, strict=True)
    arms = [run_arm(of, bucket, seed=seed, **options).sum(axis=0) for of, bucket in arms]
    return np.stack(arms, axis=1)


# Buckets and days -------------------------------------------------------------------------------


def test_buckets_are_equal_disjoint_and_of_candidates_only():
    candidates = np.setdiff1d(np.arange(USERS), WORLD.dataset.stage1.user)
    first, second = ab_test.split_candidates(WORLD, 0)
    assert first.shape == second.shape == (len(RUNNING), len(candidates) // 2)
    for a, b in zip(first, second, strict=True):
        both = np.concatenate([a, b])
        assert len(np.unique(both)) == len(both) >= len(candidates) - 1
        assert np.isin(both, candidates).all()
    # At random, for each campaign by itself: two campaigns' halves share half of their users.
    shared = [len(np.intersect1d(first[0], other)) / len(other) for other in first[1:]]
    assert np.mean(shared) == pytest.approx(0.5, abs=0.02)
    other = ab_test.split_candidates(WORLD, 1)[0]
    assert not np.array_equal(other, first)
    np.testing.assert_array_equal(ab_test.split_candidates(WORLD, 0), [first, second])


def test_the_top_users_of_the_bucket_are_taken_and_only_who_is_active_is_exposed():
    everybody = replace(WORLD, activity=np.ones(USERS))
    bucket = ab_test.split_candidates(WORLD, 0)[0]
    counts = run_arm(WELL, bucket, world=everybody, days=3, audience=20)
    assert (counts[..., 0] == 20).all()  # as many for every method, campaign and day
    nobody = replace(WORLD, activity=np.zeros(USERS))
    assert not run_arm(WELL, bucket, world=nobody).any()

    # All that are taken see it, and leave: after three days the best 60 have, in that order.
    seen = Recorder()
    run_arm(seen.method, bucket, world=everybody, days=4, audience=20)
    score = ROWS[WORLD.dataset.user_rows].sum(axis=1)
    key = WORLD.dataset.user_key
    for place, campaign in enumerate(RUNNING):
        best = sorted(bucket[place], key=lambda u: (-score[u], key[u]))
        for day in range(4):
            shown = seen.added(day, campaign)[0]
            np.testing.assert_array_equal(np.sort(shown), np.sort(best[: 20 * day]))


def test_conversions_follow_the_truth():
    bucket = ab_test.split_candidates(WORLD, 0)[0]
    certain = replace(WORLD, truth=WORLD.truth._replace(intercept=np.full(CAMPAIGNS, 90.0)))
    counts = run_arm(BADLY, bucket, world=certain)
    np.testing.assert_array_equal(counts[..., 0], counts[..., 1])
    never = replace(WORLD, truth=WORLD.truth._replace(intercept=np.full(CAMPAIGNS, -90.0)))
    assert not run_arm(BADLY, bucket, world=never)[..., 1].any()
    # In between: as many of all who are exposed as their probabilities add up to.
    everybody = replace(WORLD, activity=np.ones(USERS))
    counts = run_arm(BADLY, bucket, world=everybody, days=1, audience=bucket.shape[1])
    p = [
        WORLD.truth.probability(u, np.full(len(u), c)) for u, c in zip(bucket, RUNNING, strict=True)
    ]
    p = np.stack(p)
    error = np.sqrt((p * (1 - p)).sum())
    assert abs(counts[..., 1].sum() - p.sum()) < 4 * error


# Feedback ---------------------------------------------------------------------------------------


class Recorder:
    """A method that keeps the data sets that it is fitted on."""

    def __init__(self):
        self.trained, self.days = [], []

        def offline(job):
            self.trained.append(job)

        def online(job, general, campaigns, watch=None):
            self.days.append(job.dataset)
            return [lambda users: ROWS[users].sum(axis=1)] * len(campaigns)

        self.method = Method("recorder", offline, online)

    def added(self, day, campaign):
        """Users and labels that a campaign has got by a day, in the order they came."""
        now, before = self.days[day].stage1, WORLD.dataset.stage1
        own, old = now.of(campaign), before.of(campaign)
        count = old.stop - old.start
        np.testing.assert_array_equal(now.user[own][:count], before.user[old])
        np.testing.assert_array_equal(now.label[own][:count], before.label[old])
        return now.user[own][count:], now.label[own][count:]


def test_feedback_of_a_day_is_in_the_next_days_training_set():
    seen, bucket = Recorder(), ab_test.split_candidates(WORLD, 0)[1]
    counts = run_arm(seen.method, bucket, days=3)
    assert not seen.trained  # the general model was trained before
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
    seen, bucket = Recorder(), ab_test.split_candidates(WORLD, 0)[1]
    run_arm(seen.method, bucket, days=5, general_every=2, directory=tmp_path)
    assert [job.directory for job in seen.trained] == [tmp_path / "day-2", tmp_path / "day-4"]
    for job, day in zip(seen.trained, (2, 4), strict=True):
        np.testing.assert_array_equal(job.campaigns, np.arange(CAMPAIGNS))
        assert job.dataset is seen.days[day]


def test_a_score_that_is_not_a_number_is_named():
    bucket = ab_test.split_candidates(WORLD, 0)[0]
    with pytest.raises(Diverged, match="fake: a score for campaign "):
        run_arm(method(lambda users: np.full(len(users), np.nan)), bucket)


# Lifts ------------------------------------------------------------------------------------------


def test_lifts_by_hand():
    # 200 exposed and 10 converted in the control arm, 220 and 22 in the other.
    np.testing.assert_allclose(
        ab_test.lifts(np.array([[200, 10], [220, 22]])), [0.1, 1.2, 1.0], rtol=1e-12
    )
    assert not np.isfinite(ab_test.lifts(np.array([[200, 0], [220, 22]])))[1:].any()


def test_bootstrap_equals_a_naive_computation():
    counts = compared(BADLY, WELL, 0)
    rng = ab_test.generator(5, ab_test._BOOTSTRAP)
    drawn = []
    for picks in rng.integers(len(counts), size=(400, len(counts))):
        (e0, c0), (e1, c1) = sum(counts[c] for c in picks)
        drawn.append((e1 / e0 - 1, c1 / c0 - 1, (c1 / e1) / (c0 / e0) - 1))
    # Of 400 in order, the 10th and the 390th: at least 2.5% and 97.5% are no greater.
    naive = np.sort(drawn, axis=0)[[9, 389]]
    np.testing.assert_allclose(ab_test.bootstrap(counts, 5, 400), naive, rtol=1e-12)


def test_a_better_method_has_a_lift():
    counts = compared(BADLY, WELL, 0)
    low, _ = ab_test.bootstrap(counts, 0)
    assert (low > 0).all()
    _, high = ab_test.bootstrap(counts[:, ::-1], 0)
    assert (high < 0).all()


def test_nothing_comes_of_a_test_of_a_method_against_itself():
    repeats, lift, within = 60, [], []
    for seed in range(repeats):
        counts = compared(WELL, WELL, seed)
        low, high = ab_test.bootstrap(counts, seed, 400)
        within.append((low <= 0) & (high >= 0))
        lift.append(ab_test.lifts(counts.sum(axis=0)))
    # 95% intervals, of 24 campaigns each: of 60 some 3 to 5 miss 0.
    assert (np.mean(within, axis=0) > 0.85).all()
    assert (np.mean(within, axis=0) < 1).any()  # nor are they so wide that nothing would show
    error = np.std(lift, axis=0) / np.sqrt(repeats)
    assert (np.abs(np.mean(lift, axis=0)) < 4 * error).all()


# The command ------------------------------------------------------------------------------------

TINY = ("--users", 7000, "--campaigns", 20, "--days", 2, "--audience", 0.1)


def command(*arguments):
    words = [str(argument) for argument in arguments]
    console.run(lambda: ab_test.main(tyro.cli(ab_test.Options, args=words)))


def refuses(capsys, *arguments, words):
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught:
        command(*arguments)
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


@pytest.fixture(scope="module")
def one_application():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ab_test, "APPLICATIONS", {"article": 4.0})
        yield


@pytest.fixture(scope="module")
def finished(one_application, tmp_path_factory):
    directory = tmp_path_factory.mktemp("ab")
    options = ("--treatment", "cosine", "--control", "prior", *TINY)
    options += ("--out", directory / "out", "--cache-dir", directory / "cache")
    command(*options)
    return directory / "out", options


def test_a_test_leaves_all_that_it_promises(finished):
    out, _ = finished
    arms = {"article-cosine-A", "article-cosine-B", "article-prior-A"}
    assert {path.stem for path in (out / "methods").iterdir()} == arms
    assert (out / "lifts.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((out / "results.json").read_text())
    tests = {test["test"]: test for test in results["tests"]}
    labels = [METHODS[name].label for name in ("cosine", "prior")]
    assert list(tests) == [f"{labels[0]} against {labels[1]}", f"A/A: {labels[0]}"]
    counts = {
        arm: np.array(json.loads((out / "methods" / f"{arm}.json").read_text())["counts"])
        for arm in arms
    }
    assert all(of.shape == (2, 8, 2) for of in counts.values())
    for test, control in zip(tests.values(), ("article-prior-A", "article-cosine-A"), strict=True):
        for side, arm in (("control", control), ("treatment", "article-cosine-B")):
            assert list(test[side].values()) == counts[arm].sum(axis=(0, 1)).tolist()
        exposed, converted = (
            [test[s][k] for s in ("control", "treatment")] for k in test["control"]
        )
        assert min(converted) > 0
        lift = test["lifts"]
        assert lift["exposure"]["lift"] == pytest.approx(exposed[1] / exposed[0] - 1)
        assert lift["conversion"]["lift"] == pytest.approx(converted[1] / converted[0] - 1)
        for measure in lift.values():
            assert measure["low"] <= measure["lift"] <= measure["high"]
    text = (out / "report.md").read_text()
    assert "| article | MetaHeac [paper] | +3.18% | +9.23% | +4.64% |" in text
    assert "[paper]: the paper's own figures" in text
    assert "intervals contain 0" in text


def test_the_worlds_truth_is_that_of_the_data(finished):
    out, _ = finished
    options = ab_test.Options(users=7000, campaigns=20, cache_dir=out.parent / "cache")
    world = ab_test.load_world(options, "article", silent)
    stage = world.dataset.stage1
    campaign = np.repeat(np.arange(20), stage.counts)
    found = world.truth.probability(stage.user, campaign)
    np.testing.assert_allclose(found, stage.probability, rtol=1e-5)
    # Four times the Tencent data's rate; and users are active on some four days of ten.
    assert stage.label.mean() == pytest.approx(4 * 0.0478, abs=0.01)
    assert world.activity.mean() == pytest.approx(0.4, abs=0.03)
    assert world.activity.std() > 0.1


def test_a_test_resumes_with_what_is_done(finished, monkeypatch, capsys):
    out, options = finished
    before = json.loads((out / "results.json").read_text())
    (out / "methods" / "article-prior-A.json").unlink()
    # The treatment's arms are done, so nothing of it may be run.
    monkeypatch.setitem(METHODS, "cosine", replace(METHODS["cosine"], offline=None, online=None))
    command(*options, "--resume")
    assert json.loads((out / "results.json").read_text())["tests"] == before["tests"]
    printed = capsys.readouterr().out
    assert "A/A: 3 of 3 intervals contain 0" in printed or "not those of" in printed
    assert "MetaHeac [paper]" in printed
    refuses(capsys, *options, "--resume", "--days", 3, words=("another days", "afresh"))
    changed = replace(METHODS["prior"], settings={"width": 3})
    monkeypatch.setitem(METHODS, "prior", changed)
    refuses(capsys, *options, "--resume", words=("article-prior-A.json: reached with other",))


@pytest.mark.parametrize(("option", "days"), [((), [0, 1, 1]), (("--general-every", 2), [0])])
def test_feedback_goes_back_into_both_models(finished, tmp_path, monkeypatch, option, days):
    jobs = []
    everybody = lambda users: np.zeros(len(users))  # noqa: E731
    recorder = replace(method(everybody), offline=jobs.append)
    monkeypatch.setitem(METHODS, "cosine", recorder)
    words = ("--treatment", "cosine", "--control", "prior", *TINY, *option)
    command(*words, "--out", tmp_path, "--cache-dir", finished[0].parent / "cache")
    # Before the week on the 12 others; then every day, an arm of A/A after the other, on all 20.
    assert [len(job.campaigns) for job in jobs] == [20 if day else 12 for day in days]
    assert [len(job.dataset.stage1.user) > len(jobs[0].dataset.stage1.user) for job in jobs] == [
        bool(day) for day in days
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--treatment", "best"), ("unknown 'best'",)),
        (("--control", "metaheac"), ("--control: metaheac is the treatment",)),
        (("--days", 0), ("--days: expected 1 or more",)),
        (("--audience", 0.5), ("--audience: expected a share",)),
        (("--general-every", 0), ("--general-every: expected 1 or more",)),
        (("--campaigns", 3), ("--campaigns: expected 10 or more",)),
    ],
)
def test_options_that_no_test_can_have_are_refused(tmp_path, capsys, options, words):
    refuses(capsys, *options, "--out", tmp_path / "out", words=words)
    assert not (tmp_path / "out").exists()
