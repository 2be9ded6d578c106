"""Values of a comparison on results written by hand, and the file that keeps them."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest
from judged_runs import ABOUT, campaign, comparison, result, runs

from experiments.comparison.results import load, store
from experiments.results.merge import merged
from metaheac_jax.errors import InputError


def test_means_are_over_campaigns_and_then_over_runs():
    of = comparison(runs())
    small, large = (of.values("lr", group, "auc") for group in ("small", "large"))
    # .6 (of .5, .6, .7) and .8; over the four campaigns alike it would be .65.
    assert small.mean == pytest.approx(0.7)
    assert small.deviation == pytest.approx(0.2 / 2**0.5)  # of a sample: n - 1
    assert small.campaigns == ({1: 0.5, 2: 0.6, 3: 0.7}, {5: 0.8})
    assert of.values("lr", "small", "precision").mean == pytest.approx(0.35)
    # Only one run has a large campaign.
    assert large.mean == pytest.approx(0.9)
    assert np.isnan(large.deviation)
    assert np.isnan(large.runs).tolist() == [False, True]
    assert np.isnan(of.values("lr", "small", "auc_before").mean)
    assert (of.num_campaigns("small"), of.num_campaigns("large")) == (4, 1)


def test_auc_before_customising_is_a_mean_where_it_is_known():
    judged = [campaign(n, "small", 0.5 + n / 10) | {"auc_before": None} for n in (1, 2, 3)]
    judged[0]["auc_before"], judged[1]["auc_before"] = 0.5, 0.6
    before = comparison([{"lr": result("LR", judged)}]).values("lr", "small", "auc_before")
    assert before.campaigns == ({1: 0.5, 2: 0.6},)
    assert before.mean == pytest.approx(0.55)


@pytest.mark.parametrize(
    ("preset", "independent", "overlap"),
    [("paper", True, 0.0), ("paper", False, 40 / 54), ("official", False, 40 / 60)],
)
def test_runs_overlap_where_they_divide_the_same_campaigns(preset, independent, overlap):
    about = {**ABOUT, "preset": preset, "commands": []}
    assert comparison(runs(), about=about, independent_runs=independent).overlap == pytest.approx(
        overlap
    )


def test_what_is_stored_is_read_again(tmp_path):
    found = runs()
    for run in found:
        run["lr"] |= {
            "seconds": {"offline": 1.23456789},
            "settings": {"rate": 1e-9},
        }
    of, path = comparison(found), tmp_path / "results.json.gz"
    store(path, of)
    first = path.read_bytes()
    stored = load(path)
    assert stored.seeds == [0, 1]
    assert stored.title == of.title
    assert stored.methods["lr"]["settings"] == {"rate": 1e-9}  # not rounded
    assert stored.seconds("lr", "offline") == 1.234568
    assert stored.seconds("metaheac", "offline") is None
    assert stored.values("lr", "small", "auc") == of.values("lr", "small", "auc")
    store(path, stored)
    assert path.read_bytes() == first


def test_a_value_that_is_not_finite_is_null(tmp_path):
    of = comparison([{"lr": result("LR", [campaign(1, "small", float("nan"))])}])
    store(tmp_path / "a.json.gz", of)
    content = json.loads(gzip.decompress((tmp_path / "a.json.gz").read_bytes()))
    assert content["methods"]["lr"]["runs"][0]["auc"] == [None]


def test_methods_of_some_runs_are_put_into_a_comparison():
    old, last = comparison(runs()), runs()[1:]
    new = replace(comparison(last), seeds=[1])
    new = replace(new, methods={"later": new.methods["lr"]})
    found = merged(new, old, ["later"])
    assert found.methods["lr"] == old.methods["lr"]
    assert found.methods["later"]["runs"] == [None, old.methods["lr"]["runs"][1]]
    with pytest.raises(InputError, match="seed 0: "):
        merged(replace(new, seeds=[0]), old, ["later"])
