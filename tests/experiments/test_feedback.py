"""The loop of audiences and answers: its two second audiences, and their difference."""

import json

import numpy as np
import pytest
import scipy.stats
from commands import small_simulation, tiny_settings

from experiments import feedback
from metaheac_jax.data.simulation import world


def test_the_gain_is_geometric_with_students_interval():
    rng = np.random.default_rng(0)
    found = [
        {"first": 5.0, "without": float(a), "with": float(b)} for a, b in 1 + rng.random((10, 2))
    ]
    logs = np.log([own["with"] / own["without"] for own in found])
    bounds = scipy.stats.ttest_1samp(logs, 0).confidence_interval(0.95)
    mean, low, high = 100 * (np.exp([logs.mean(), *bounds]) - 1)
    assert feedback.summary(found)[0] == "5"
    assert feedback.summary(found)[-1] == f"{mean:+.1f}% [{low:+.1f}, {high:+.1f}]"


@pytest.mark.slow
def test_answers_reach_the_second_audience(tmp_path, monkeypatch):
    with small_simulation(), tiny_settings():
        write = world.write_world
        monkeypatch.setattr(
            feedback, "write_world", lambda *a, **b: write(*a, **b | {"min_pool_examples": 40})
        )
        for name, value in {"NEW_CAMPAIGNS": 2, "USERS": 4000, "SIZE": 150}.items():
            monkeypatch.setattr(feedback, name, value)
        out = tmp_path / "feedback.json"
        feedback.main(feedback.Options(methods=("lr",), out=out))
    found = json.loads(out.read_text())["conversions"]["lr"]
    assert len(found) == 2
    for own in found:
        assert 0 < own["without"] < 150
        assert own["with"] != own["without"]  # the answers were taken up
