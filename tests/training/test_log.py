"""The hooks of a training: lines of a file, which go on after a kill or a damage, and progress."""

import json

import numpy as np
import pytest

from metaheac_jax.training.log import json_lines, numbers, to_progress

LINES = [
    {"name": "toy", "step": 20, "of": 90, "loss": 0.5, "steps_per_second": 9.0, "seconds": 2.5},
    {"name": "toy", "step": 31, "skipped": "loss is nan", "campaigns": [1]},
    {"name": "other", "step": 90, "of": 90, "held_out_auc": 0.5, "held_out_loss": 0.7},
    {"name": "toy", "step": 40, "of": 90, "loss": 0.4, "steps_per_second": 9.0, "seconds": 5.0},
]


def start(step, resumable=True):
    return {"name": "toy", "step": step, "of": 90, "resumable": resumable}


@pytest.fixture
def log(tmp_path):
    for line in LINES:
        json_lines(tmp_path / "log")(line)
    return tmp_path / "log"


def steps(log):
    return [json.loads(line)["step"] for line in log.read_text().splitlines()]


@pytest.mark.parametrize(
    ("begins", "kept"), [(31, [20, 31, 90]), (0, [90]), (40, [20, 31, 90, 40])]
)
def test_lines_after_the_checkpoint_are_removed(log, begins, kept):
    json_lines(log)(start(begins))
    assert steps(log) == kept
    json_lines(log)(LINES[0])
    assert json.loads(log.read_text().splitlines()[-1]) == LINES[0]


def test_a_training_without_checkpoints_keeps_the_lines_of_others(log):
    json_lines(log)(start(0, resumable=False))
    assert len(steps(log)) == 4


@pytest.mark.parametrize(
    "text", ["", "{", "3", "[]", "{}", '{"name": 1, "step": ""}', "[" * 99_999]
)
def test_what_is_no_line_of_a_log_is_removed(log, text):
    log.write_text(log.read_text() + text.replace("1", '"toy"'))
    json_lines(log)(start(40))
    assert len(steps(log)) == 4


def test_a_damaged_bit_does_not_stop_a_training(log):
    content = log.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << np.random.default_rng(place).integers(8)
        log.write_bytes(damaged)
        json_lines(log)(start(40))
        for line in log.read_text().splitlines():
            assert {"name", "step"} <= json.loads(line).keys()


def test_records_are_numbers_and_progress():
    told = []
    for record in [start(0), *LINES]:
        to_progress(lambda *own: told.append(own))(record)
    assert told == [
        ("toy", 0, 90), ("toy: loss 0.5", 20, 90), ("other: held-out AUC 0.5000", 90, 90),
        ("toy: loss 0.4", 40, 90),
    ]  # fmt: skip
    assert numbers(LINES[2]) == {"held_out_auc": 0.5, "held_out_loss": 0.7}
