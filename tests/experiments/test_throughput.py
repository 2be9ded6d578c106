"""Throughput: the stages are timed, the ways of the meta-step compute what they say."""

import json

import jax
import numpy as np
import pytest
from toy import check_data

from experiments.throughput.__main__ import Options, main, stages_table
from experiments.throughput.inputs import ROWS_OF_FIELDS, Size, check_option, synthetic
from experiments.throughput.stages import Record, in_turns
from experiments.throughput.steps import WAYS, compile_step, place, untrained
from experiments.throughput.trace import busy_fraction
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.errors import InputError
from metaheac_jax.schema import TENCENT

SIZE = Size(campaigns=2, batch_size=64, width=8, table_rows=3000)


@pytest.fixture(scope="module")
def data():
    return synthetic(SIZE, num_users=500)


@pytest.fixture(scope="module")
def batch(data):
    sampler = CampaignSampler(
        data,
        np.arange(data.num_campaigns),
        seed=0,
        campaigns_per_step=SIZE.campaigns,
        batch_size=SIZE.batch_size,
        disjoint=True,
    )
    return sampler(0)


def test_the_inputs_have_the_competitions_fields(data):
    assert data.schema == TENCENT
    assert data.num_rows == SIZE.table_rows
    assert len(ROWS_OF_FIELDS) == len(TENCENT.fields)
    assert sum(ROWS_OF_FIELDS) == 334_494
    check_data(data)
    assert data.stage1.label.mean() == pytest.approx(1 / 20, abs=0.01)
    with pytest.raises(InputError, match="--table-rows"):
        check_option("table_rows", 100)


@pytest.mark.slow
def test_the_whole_table_way_takes_the_same_step_as_the_row_local_one(data, batch):
    losses, states = {}, {}
    for way in WAYS:
        placed = place(way, batch, SIZE)
        program = compile_step(way, SIZE, placed, data.layout)
        state, info = program.step(program.init(*untrained(SIZE, data.layout)), *placed)
        losses[way], states[way] = float(info.loss), state
        assert program.flops > 0
        assert program.memory > 0
    assert losses["row-local"] == pytest.approx(losses["whole-table"], rel=1e-5)
    ours, theirs = states["row-local"].network, states["whole-table"].params["network"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), ours, theirs)


def test_turns_leave_the_first_round_out():
    counts = iter(range(100))
    times = in_turns([lambda: next(counts), lambda: -next(counts)], 3)
    np.testing.assert_array_equal(times, [[2, 4, 6], [-3, -5, -7]])


def test_a_table_relates_times_to_the_arithmetic():
    record = Record("meta-step", "whole-table", *SIZE, 0.5, 2.0, 100.0, 400.0, 1 << 30)
    table = stages_table([record, Record("sample", "", *SIZE, 0.001)])
    assert table.rows[0][2:] == ["500", "2.00", "100.00", "2.00", "1.00 GiB"]
    assert table.rows[1][2:] == ["1", "-", "-", "-", "-"]


def test_the_device_is_idle_between_spans():
    spans = np.array([[6.0, 8.0], [0.0, 4.0], [1.0, 2.0], [3.0, 5.0]])  # idle from 5 to 6
    assert busy_fraction(spans) == pytest.approx(7 / 8)
    assert busy_fraction(spans[1:]) == 1


@pytest.mark.slow
def test_a_trace_of_training_is_written(tmp_path, capsys):
    main(Options(*SIZE[:3], table_rows=(SIZE.table_rows,), trace=tmp_path))
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert "of it on the device; 100 steps" in capsys.readouterr().out


@pytest.mark.slow
def test_the_command_writes_its_records(tmp_path):
    path = tmp_path / "records.json"
    options = {"campaigns": 2, "batch_size": 64, "width": 8, "table_rows": (3000,), "rounds": 1}
    main(Options(**options, ways=("row-local",), json=path))
    records = [Record(**own) for own in json.loads(path.read_text())["stages"]]
    assert [own.stage for own in records] == ["sample", "customise", "score", "meta-step"]
    assert all(own.median_seconds > 0 for own in records)
    with pytest.raises(InputError, match="--ways"):
        main(Options(**options, ways=("whole-table",)))
