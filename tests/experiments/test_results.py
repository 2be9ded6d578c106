"""Values of a comparison on results written by hand, and what is kept of it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from judged_runs import campaign, comparison, result, runs

from experiments.comparison.results import Comparison, load, method_values, store, summarise
from metaheac_jax.errors import InputError

FILES = ("results.json", "methods.jsonl", "campaigns.jsonl")


def test_means_are_over_campaigns_and_then_over_runs():
    summary = summarise(runs())
    assert list(summary) == ["lr", "metaheac"]
    small, large = summary["lr"]["small"], summary["lr"]["large"]
    # .6 (of .5, .6, .7) and .8; over the four campaigns alike it would be .65.
    assert small["auc"]["mean"] == pytest.approx(0.7)
    assert small["auc"]["std"] == pytest.approx(0.2 / 2**0.5)  # of a sample: n - 1
    assert small["auc"]["runs"] == pytest.approx([0.6, 0.8])
    assert small["precision"]["mean"] == pytest.approx(0.35)
    assert small["recall"]["mean"] == pytest.approx(0.175)
    assert small["pooled_auc"]["mean"] == pytest.approx(0.65)
    assert small["campaigns"] == 2
    # Only one run has a large campaign.
    assert large["auc"] == {"mean": pytest.approx(0.9), "std": 0.0, "runs": [0.9, None]}
    assert large["campaigns"] == 0.5
    assert summary["metaheac"]["small"]["auc"]["mean"] == pytest.approx(0.5)
    assert summary["metaheac"]["large"] == {"campaigns": 0.0}
    assert summary["lr"]["left_out"] == [{"campaign": 7, "why": "3 candidates"}]
    json.dumps(summary, allow_nan=False)


def test_campaigns_keep_their_values_for_paired_tests():
    lr = method_values(runs())["lr"]
    assert lr["small"]["auc"].campaigns == ({1: 0.5, 2: 0.6, 3: 0.7}, {5: 0.8})
    assert lr["large"]["recall"].campaigns == ({4: 0.225}, {})
    assert lr["small"]["pooled_auc"].campaigns == ()
    assert np.isnan(lr["small"]["auc_before"].mean)


def test_auc_before_customising_is_a_mean_where_it_is_known():
    judged = [campaign(n, "small", 0.5 + n / 10) for n in (1, 2, 3)]
    judged[0]["auc_before"], judged[1]["auc_before"], judged[2]["auc_before"] = 0.5, 0.6, None
    values = method_values([{"lr": result("LR", judged, small=0.6)}])
    assert values["lr"]["small"]["auc_before"].campaigns == ({1: 0.5, 2: 0.6},)
    assert values["lr"]["small"]["auc_before"].runs == pytest.approx((0.55,))


def test_the_oracles_share():
    run = {"lr": result("LR", [campaign(1, "small", 0.6)], small=0.6)}
    run["oracle"] = result("oracle", [campaign(1, "small", 0.9)], small=0.9)
    summary = summarise([run])
    assert summary["lr"]["small"]["oracle_share"]["mean"] == pytest.approx(0.25)
    assert summary["oracle"]["small"]["oracle_share"]["mean"] == 1.0
    run["oracle"] = result("oracle", [campaign(1, "small", 0.5)], small=0.5)
    assert "oracle_share" not in summarise([run])["lr"]["small"]  # an oracle of no use


@pytest.mark.parametrize(
    ("preset", "independent", "overlap"),
    [("paper", True, 0.0), ("paper", False, 40 / 54), ("official", False, 40 / 60)],
)
def test_runs_overlap_where_they_divide_the_same_campaigns(preset, independent, overlap):
    about = {"train_campaigns": 60, "test_campaigns": 40, "preset": preset}
    given = comparison(runs(), about=about, independent_runs=independent)
    assert given.overlap == pytest.approx(overlap)


# Files ------------------------------------------------------------------------------------------


def full_runs():
    """Results with all that a run keeps."""
    found = runs()
    for run in found:
        run["lr"] |= {
            "offline": {"steps": 40, "best_step": 20, "ceiling": 90, "curve": [[20, 0.7, 0.5]]},
            "seconds": {"offline": 1.5, "customise": 0.25, "score": 0.125},
            "settings": {"inner_learning_rate": 0.0000002},
            "provenance": {"commit": "abc", "jax": "0.12.0"},
        }
    return found


def given_comparison():
    tuning = {"origin": "toy", "methods": {}}
    about = {"data": "toy", "train_campaigns": 3, "test_campaigns": 2}
    return comparison(
        full_runs(), published="tencent", about=about, tuning=tuning, independent_runs=False
    )


def test_what_was_stored_is_read_again(tmp_path):
    given = given_comparison()
    store(tmp_path, given, {"more": 1})
    assert load(tmp_path) == given
    assert json.loads((tmp_path / "results.json").read_text())["more"] == 1
    # Each judged campaign has a line of its own.
    lines = [json.loads(x) for x in (tmp_path / "campaigns.jsonl").read_text().splitlines()]
    assert lines[4] == {"run": 0, "method": "metaheac", **campaign(1, "small", 1.0)}
    assert len(lines) == 4 + 1 + 1 + 1
    methods = [json.loads(x) for x in (tmp_path / "methods.jsonl").read_text().splitlines()]
    assert [(of["run"], of["method"]) for of in methods] == [
        *((0, "lr"), (0, "metaheac"), (1, "lr"), (1, "metaheac"))
    ]


def test_a_tuning_of_before_is_not_kept(tmp_path):
    given = given_comparison()
    store(tmp_path, given, {})
    store(tmp_path, replace(given, tuning=None), {})
    assert load(tmp_path).tuning is None


def test_floats_are_rounded_to_six_digits_and_settings_are_not(tmp_path):
    given = given_comparison()
    given.runs[0]["lr"]["campaigns"][0]["auc"] = 2 / 3
    given.runs[0]["lr"]["pooled_auc"]["small"] = 1 / 3
    store(tmp_path, given, {"summary": {"std": np.nan, "runs": (1 / 3,)}})
    stored = load(tmp_path).runs[0]["lr"]
    assert stored["campaigns"][0]["auc"] == 0.666667
    assert stored["pooled_auc"]["small"] == 0.333333
    assert stored["settings"] == {"inner_learning_rate": 0.0000002}
    strict = json.loads((tmp_path / "results.json").read_text(), parse_constant=pytest.fail)
    assert strict["summary"] == {"std": None, "runs": [0.333333]}
    assert max(map(len, (tmp_path / "campaigns.jsonl").read_text().splitlines())) < 120


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        *((name, None, f"no {name}; train something first") for name in FILES),
        ("results.json", "{", "its results are damaged"),
        ("results.json", "[]", "its results are damaged"),
        ("methods.jsonl", '{"run": 0}\n', "its results are damaged"),
        ("methods.jsonl", "", "its results are damaged"),
        ("campaigns.jsonl", '{"run": 9}\n', "its results are damaged"),
    ],
)
def test_results_that_are_missing_or_damaged(tmp_path, name, text, words):
    store(tmp_path, comparison(runs()), {})
    (tmp_path / name).unlink() if text is None else (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        load(tmp_path)


def test_runs_are_independent_unless_it_is_said():
    assert Comparison("toy", [0], runs()[:1]).overlap == 0.0
