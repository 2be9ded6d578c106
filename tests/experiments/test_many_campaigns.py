"""The command for many campaigns: what it writes, its arithmetic, and its rival's correctness."""

import json
from pathlib import Path

import commands
import jax
import numpy as np
import pytest
from commands import contents, refuses, succeeds, tiny_settings
from tencent_world import TEST, UNJUDGED, write

from experiments.many_campaigns import __main__ as command
from experiments.many_campaigns import pool, quality, speed
from experiments.many_campaigns.quality import WayResult, loss_of_heads
from experiments.many_campaigns.speed import ScoringSpeed, flops_ratio, whole_table_adam
from experiments.throughput.inputs import FIXED_ROWS, Size, synthetic
from experiments.throughput.machine_limits import Limits, theory_flops
from experiments.throughput.meta_steps import NETWORK, untrained
from metaheac_jax.customise.customiser import Customiser
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.model import AdaptedWeights

COMMAND = commands.module(command)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with tiny_settings(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(speed, "TABLE_ROWS", FIXED_ROWS + 1000)
        patch.setattr(pool, "TABLE_ROWS", FIXED_ROWS + 1000)
        patch.setattr(pool, "_TILE", 1024)
        patch.setattr(speed, "POOL", 64)
        patch.setattr(quality, "RATES", (0.001, 0.01))
        yield


@pytest.mark.long
def test_both_ways_are_tuned_customised_and_judged(tmp_path, capsys):
    source, out = write(tmp_path / "data"), tmp_path / "out"
    options = ("--data-dir", source, "--cache-dir", tmp_path / "cache", "--out", out)
    succeeds(COMMAND, *options, "--parts", "auc")
    printed = capsys.readouterr().out
    assert contents(out) == {"checkpoints", "log.jsonl", "report.md", "results.json"}
    results = json.loads((out / "results.json").read_text())
    assert list(results["ways"]) == ["all", "heads"]
    aucs = []
    for way in results["ways"].values():
        assert list(way["tried"]) == ["0.001", "0.01"]
        assert way["tried"][str(way["rate"])] == max(way["tried"].values())
        judged = way["result"]["campaigns"]
        assert {c["campaign"] for c in judged} == set(TEST) - set(UNJUDGED)
        aucs.append([c["auc"] for c in judged])
    assert aucs[0] != aucs[1]
    assert "| heads | " in printed
    assert "heads - all " in printed
    assert "; settings not tuned; " in printed


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--method", "lr"), "lr: cannot adapt heads only"),
        (("--method", "xgboost"), "xgboost"),
        (("--campaigns", 0), "--campaigns: expected 1"),
        (("--data-dir", ".", "--users", 9), "--users: cannot be used with --data-dir"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(tmp_path, capsys, options, words):
    folders = ("--cache-dir", tmp_path / "cache", "--out", tmp_path / "out")
    refuses(capsys, COMMAND, *options, *folders, words=(words,))
    assert contents(tmp_path) == set()


def test_the_difference_is_paired():
    def way(aucs):
        entries = [{"campaign": c, "group": "small", "auc": a} for c, a in aucs.items()]
        return WayResult({}, 0.1, 1.0, {"campaigns": entries})

    ways = {"all": way({1: 0.7, 2: 0.6, 3: 0.9}), "heads": way({2: 0.59, 1: 0.7, 3: 0.87})}
    loss = loss_of_heads(ways, "small")
    differences = np.array([0, -0.01, -0.03])
    assert loss.mean == pytest.approx(differences.mean())
    assert loss.error == pytest.approx(differences.std(ddof=1) / np.sqrt(3))


@pytest.mark.slow
def test_speeds_are_reported_with_the_arithmetic(tmp_path, capsys):
    options = ("--parts", "score", "--campaigns", 1, 3, "--widths", 4, "--rounds", 2)
    succeeds(COMMAND, *options, "--out", tmp_path / "out")
    printed = capsys.readouterr().out
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert [(s["width"], s["campaigns"]) for s in results["scoring"]] == [(4, 1), (4, 3)]
    assert all(s["shared"] > 0 and s["full"] > 0 for s in results["scoring"])
    assert "| 4 | 3 | " in printed
    line = command.extrapolation(ScoringSpeed(64, 100, shared=5e5, full=5e4, flops=10))
    assert line == (
        "- k = 64: 1,000,000,000 users x 500 campaigns a day = 5e+11 scores; / 500,000 a second / "
        "86,400 seconds = 11.6 of these machines, and 115.7 with full passes"
    )


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read on Linux")
def test_memory_and_time_of_a_pool_are_told(tmp_path, capsys, monkeypatch):
    limits = Limits({"default": 1e9, "float32": 1.0}, 1.0, 1.0)  # some devices have several
    monkeypatch.setattr(pool, "measure_limits", lambda: limits)
    options = ("--parts", "expand", "--pool", 3_000, "--widths", 4, "--out", tmp_path / "out")
    succeeds(COMMAND, *options)
    results = json.loads((tmp_path / "out" / "results.json").read_text())["expanding"]
    assert [entry["users"] for entry in results] == [300 + pool.SEEDS, 3_000]
    flops = {"num_examples": 1, "num_campaigns": 0, "width": 4, "derivative": "forward"}
    of_user = theory_flops(NETWORK, **flops) / 1e9
    for entry in results:
        assert entry["seconds"] > 0
        assert entry["formulas"] == pytest.approx(entry["users"] * of_user)
    assert contents(tmp_path / "out") == {"report.md", "results.json"}
    assert "| 4 | 3,000 | " in capsys.readouterr().out
    before = pool._anonymous()
    with pool._most_memory() as most:
        held = np.ones(1 << 24)
    assert held.nbytes / 2 < most[0] - before < 2 * held.nbytes


def test_flops_count_the_layers():
    """k = 64: 14 fields into 8 experts of 64, and what follows."""
    first = 14 * 64 * 8 * 64
    later = 8 * 64 * 64 + 2 * 64 * 64 + 64 * (8 + 5) + 8 * 64 + 64 * 5
    assert flops_ratio(64, 1) == 1
    assert flops_ratio(64, 100) == pytest.approx(100 * (first + later) / (first + 100 * later))


@pytest.mark.slow
def test_the_whole_table_way_adapts_as_the_customiser_does():
    size = Size(1, 32, 4, FIXED_ROWS + 1000)
    data = synthetic(size, num_users=200)
    weights = untrained(size, data.layout)
    examples = campaign_examples(data, data.campaign(0)).pick(np.arange(50))
    params = whole_table_adam(data.layout, 32)(weights, examples, 2)
    (own,) = Customiser(NETWORK, data.layout, batch_size=32)(weights, [examples], epochs=2)
    table = weights.table.at[own.rows].set(own.values, mode="drop")
    np.testing.assert_allclose(params["table"], table, rtol=0, atol=1e-5)
    same = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-5)  # noqa: E731
    jax.tree.map(same, params["network"], own.network)
    assert np.abs(table - weights.table).max() > 1e-3


@pytest.mark.slow
def test_customising_is_timed_in_every_way():
    told = []
    measured = speed.time_customising(
        width=4, num_seeds=5, num_others=600, progress=lambda *what: told.append(what)
    )
    assert measured.examples == 605
    assert measured.minibatches == 4  # two epochs of two
    assert list(measured.seconds) == ["heads", "touched rows", "whole table"]
    assert min(measured.seconds.values()) > 0
    heads, touched, whole = measured.size.values()
    table = 4 * 4 * (FIXED_ROWS + 1000)  # width 4
    assert heads < min(touched, whole - table)  # the whole network is more
    padded = AdaptedWeights(
        {"a": np.zeros(10, "f4")}, np.array([1, FIXED_ROWS + 1000], "i4"), np.zeros((2, 4), "f4")
    )
    assert speed.size_on_disk(padded) == 3 * 128 + 40 + 4 + 16  # with the heads of .npy files
    assert len(told) == 3
