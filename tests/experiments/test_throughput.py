"""The benchmark: its records, its count of FLOPs against XLA's, exit codes of --compare."""

import json
import math
from dataclasses import asdict, fields, replace
from functools import cache, partial

import jax
import numpy as np
import pytest

from experiments.throughput import __main__ as command
from experiments.throughput import benchmarks
from experiments.throughput.__main__ import Options, check, main, run, sizes
from experiments.throughput.benchmarks import NUM_INPUTS, Bench, Input, Trial, in_turns, timed
from experiments.throughput.data_sheets import DATA_SHEETS, DataSheet
from experiments.throughput.inputs import ROWS_OF_FIELDS, Size, synthetic
from experiments.throughput.machine_limits import PRODUCTS, Limits, theory_bytes, theory_flops
from experiments.throughput.meta_steps import NETWORK, Program, global_ids, untrained
from experiments.throughput.records import (
    KEY,
    Record,
    compare,
    machine_lines,
    read_records,
    roofline_table,
    table,
)
from metaheac_jax.data.batches import campaign_examples
from metaheac_jax.data.samplers import CampaignSampler
from metaheac_jax.errors import InputError
from metaheac_jax.model import Weights
from metaheac_jax.progress import silent
from metaheac_jax.schema import TENCENT
from metaheac_jax.table.layout import Layout
from metaheac_jax.training.losses import build_loss
from metaheac_jax.training.meta import build_meta_gradient

TINY = Options(campaigns=(2,), batch_size=(64,), width=(64,), table_rows=(3000,), steps=3)
#: XLA also counts what is elementwise.
TOLERANCE = 1.12


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    folder = tmp_path_factory.mktemp("throughput")
    options = replace(
        TINY,
        benchmarks=("meta-step", "end to end", "sample", "to device"),
        paths=("row-local",),
        json=folder / "records.json",
        profile=folder / "traces",
        out=folder / "figures",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "measure_limits", cache(command.measure_limits))
        assert main(options) == 0
    return folder, json.loads((folder / "records.json").read_text())


@pytest.mark.slow
def test_records_have_their_form_and_agree_with_themselves(ran):
    folder, records = ran
    assert [(r["benchmark"], r["path"]) for r in records] == [
        ("sample", "memory-mapped"),
        ("to device", "batch"),
        ("meta-step", "row-local"),
        ("end to end", "row-local"),
    ]
    for record in records:
        assert set(record) == {field.name for field in fields(Record)}
        assert [record[name] for name in KEY[2:]] == [2, 64, 64, 3000]
        assert 0 < record["low_seconds"] <= record["median_seconds"] <= record["high_seconds"]
        assert record["examples"] == 2 * 2 * 64
        rate = record["examples"] / record["median_seconds"]
        assert record["examples_per_second"] == pytest.approx(rate)
        assert record["peak_memory_bytes"] > 0
        assert record["device"]
        assert record["versions"]["jax"] == jax.__version__
    for record in records[2:]:
        floor = record["theory_flops"] / record["matmul_flops_per_second"]
        assert record["floor_seconds"] == pytest.approx(floor)
        assert record["share_of_limit"] == pytest.approx(floor / record["median_seconds"])
        executed = record["executed_flops"] / record["matmul_flops_per_second"]
        assert record["executed_seconds"] == pytest.approx(executed)
        assert record["of_row_local"] is None
        assert 0 < record["loss"] < 1
        assert 0.5 < record["auc"] < 1  # of examples that were trained on
        assert record["compile_seconds"] > 0
    assert records[0]["memory_source"] == "process"
    assert records[2]["memory_source"] == "compiled program"
    # Table, moments and their last steps are arguments and results, shared by donation.
    assert 3000 * 64 * 4 * 3 < records[2]["peak_memory_bytes"] < 3000 * 64 * 4 * 3 + 100e6
    assert list((folder / "traces" / "row-local").rglob("*.xplane.pb"))
    for name in ("step_time.png", "throughput.png"):
        assert (folder / "figures" / name).stat().st_size > 1000
    every = [Record(**r) for r in records]
    report = (folder / "figures" / "report.md").read_text()
    for part in (table(every), roofline_table(every), *machine_lines(every)):
        assert part in report


@pytest.mark.slow
def test_theory_agrees_with_the_compiled_step(ran):
    """Two campaigns: in turn on a CPU, where XLA counts the loop's body once.

    Seven fields of 39 values together stay products: the first layer multiplies 39 numbers of a
    user instead of 7 x 64, and 7 times 13 rows of 64 once a batch, the most values of such a field
    being 13.
    """
    spared = 12 * 2 * 2 * (64 * (7 * 64 - 39) - 7 * 13 * 64) * 512
    for record in ran[1][2:]:
        least = record["theory_flops"] - spared
        assert 0.99 < record["executed_flops"] / least < 1.01
        assert 1 < record["counted_flops"] / record["executed_flops"] < TOLERANCE
        assert record["counted_bytes"] > record["theory_bytes"]


@pytest.mark.parametrize("derivative", PRODUCTS)
@pytest.mark.parametrize("width", [64, 16])
def test_theory_agrees_with_the_traced_program(derivative, width):
    """As traced, before XLA optimises: that takes no compilation, and counts a few percent less."""
    size = Size(1, 64, width, 3000)
    data = synthetic(size, num_users=300)
    # Without a field of few values, so that no product is spared.
    layout = Layout(tuple(field.slots for field in TENCENT.user), (), len(TENCENT.campaign))
    one = campaign_examples(data, data.campaign(0))
    batch = jax.tree.map(lambda leaf: leaf[None], one)
    params = jax.eval_shape(lambda: untrained(size, layout)._asdict())
    loss = build_loss(NETWORK, layout)
    meta = partial(build_meta_gradient, loss, inner_learning_rate=0.1)
    function, arguments = {
        "forward": (loss, (one,)),
        "gradient": (jax.grad(loss), (one,)),
        "first-order": (meta(first_order=True), (batch, batch)),
        "second-order": (meta(), (batch, batch)),
    }[derivative]
    counted = jax.jit(function).lower(params, *arguments).cost_analysis()["flops"]
    theory = theory_flops(
        NETWORK,
        num_examples=len(one.label),
        num_campaigns=1,
        width=width,
        derivative=derivative,
    )
    assert 1 < counted / theory < 1.03


def test_theory_of_the_official_step():
    """Written out: experts, two gates, mixture, critics; 12 times; then the campaigns' gates."""
    user = 896 * 512 + 8 * 64 * 64 + 2 * 64 * 64 + 64 * (8 + 5) + 8 * 64 + 64 * 5
    expected = 12 * 2 * (5 * 512 * user + 5 * 2 * (6 * 64) * 64)
    ours = theory_flops(
        NETWORK, num_examples=5 * 512, num_campaigns=5, width=64, derivative="second-order"
    )
    assert ours == expected
    assert 30e9 < ours < 34e9
    assert theory_bytes(num_rows=10, width=4, num_parameters=2) == 6 * 4 * 42


def test_synthetic_inputs_have_the_shape_of_the_real_data():
    assert sum(ROWS_OF_FIELDS) == 334_494
    size = Size(3, 32, 8, 50_000)
    data = synthetic(size, num_users=5000)
    assert data.num_rows == 50_000
    assert data.num_campaigns == 20
    offsets = (*data.vocabulary.offsets, data.num_rows)
    starts = (*data.schema.user_starts, data.user_rows.shape[1])
    for number, field in enumerate(data.schema.user):
        ids = data.user_rows[:, starts[number] : starts[number + 1]]
        used = ids < data.num_rows
        assert (ids[used] >= offsets[number]).all()
        assert (ids[used] < offsets[number + 1]).all()
        assert (used[:, :-1] >= used[:, 1:]).all()  # values first, padding after
        if field.name == "kw1":
            assert (~used[:, 0]).mean() == pytest.approx(0.10, abs=0.02)  # missing lists
            _, counts = np.unique(ids[used], return_counts=True)
            top = np.sort(counts)[::-1][:100].sum() / counts.sum()
            assert top == pytest.approx(0.275, abs=0.02)  # share of the 100 most popular values
    for number in range(len(data.schema.campaign)):
        ids = data.campaign_rows[:, number]
        block = len(data.schema.user) + number
        assert ((ids >= offsets[block]) & (ids < offsets[block + 1])).all()
    assert data.stage1.label.mean() == pytest.approx(0.05, abs=0.01)


def test_whole_table_inputs_name_the_same_rows():
    size = Size(2, 32, 4, 3000)
    data = synthetic(size, num_users=300)
    batch = CampaignSampler(data, np.arange(20), seed=0, campaigns_per_step=2, batch_size=32)(0)
    found = global_ids(batch, data.num_rows)
    for ours, local in zip(found, (batch.support, batch.query), strict=True):
        ours, local = ours.ids, local.ids
        assert (
            (ours.user == data.num_rows).sum() == (local.user == batch.own_rows.shape[1]).sum() > 0
        )
        for c, own in enumerate(batch.own_rows):
            real = local.user[c] < len(own)
            rows = batch.rows[own[local.user[c][real]]]
            np.testing.assert_array_equal(ours.user[c][real], rows)
            np.testing.assert_array_equal(ours.campaign[c], batch.rows[own[local.campaign[c]]])
        users = {row.tobytes() for row in data.user_rows}
        assert all(row.tobytes() in users for row in ours.user.reshape(-1, ours.user.shape[-1]))


def test_sizes_vary_one_value_at_a_time_and_those_of_other_tables_are_neighbours():
    options = replace(TINY, campaigns=(2, 1), width=(64, 16), table_rows=(4000, 3000))
    assert sizes(options) == [
        (2, 64, 16, 4000),
        (1, 64, 64, 4000),
        (2, 64, 64, 3000),
        (2, 64, 64, 4000),
    ]


def test_runs_take_turns_and_the_first_round_is_left_out():
    asked = []

    def run(name):
        asked.append(name)
        return [len(asked), -len(asked)]

    assert in_turns([partial(run, "a"), partial(run, "b")], 2) == [[3, -3, 5, -5], [4, -4, 6, -6]]
    assert asked == list("ababab")


def test_timed_leaves_the_first_run_out_and_stops_when_it_takes_long(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: now[0])
    asked = []

    def run(number):
        asked.append(number)
        now[0] += 100.0 if number == 0 else cost

    cost = 1.0
    assert timed(run, 5) == (100.0, [1.0] * 5)
    assert asked == [0, 1, 2, 3, 4, 5]
    cost = 4.0
    assert timed(run, 9)[1] == [4.0] * 3


def test_a_record_says_how_the_times_spread():
    bench = Bench(lambda: Limits({"default": 4.0}, 1.0, 1.0), silent)
    bench.add("score", "customised", Size(1, 1, 1, 1), [6.0, 1.0, 2.0], 10, theory_flops=4)
    (record,) = bench.records
    assert (record.low_seconds, record.median_seconds, record.high_seconds) == (1.5, 2.0, 4.0)
    assert (record.mean_seconds, record.repeats, record.examples_per_second) == (3.0, 3, 5.0)
    assert (record.floor_seconds, record.share_of_limit) == (1.0, 0.5)


def test_a_data_sheet_stands_beside_what_is_measured(monkeypatch):
    for name, sheet in DATA_SHEETS.items():
        rates = [sheet.matmul.get(p, math.nan) for p in ("float32", "default", "bf16")]
        assert name.startswith("TPU") or rates == sorted(rates), name
        assert 1e11 < sheet.memory < sheet.matmul["default"] < 1e15, name
    kind = jax.devices()[0].device_kind
    bench = Bench(lambda: Limits({"default": 4.0, "bf16": 4.0}, 1.0, 1.0), silent)
    monkeypatch.setitem(DATA_SHEETS, kind, DataSheet({"default": 8.0}, 2.0, ""))
    for precision in ("default", "bf16"):
        bench.add("score", "customised", Size(1, 1, 1, 1), [1.0], 1, precision=precision)
    assert [r.sheet_flops_per_second for r in bench.records] == [8.0, None]
    assert bench.records[0].sheet_bytes_per_second == 2.0
    told = "\n".join(machine_lines(bench.records))
    assert "precision default: 4e-09 GFLOP/s measured, data sheet 8e-09 GFLOP/s, dense" in told
    assert "precision bf16: 4e-09 GFLOP/s measured, data sheet -" in told


def fake_input(num_rows):
    size = Size(2, 32, 4, num_rows)
    data = synthetic(size, num_users=300)
    sampler = CampaignSampler(data, np.arange(20), seed=0, campaigns_per_step=2, batch_size=32)
    return Input(size, data, sampler, [sampler(number) for number in range(NUM_INPUTS)])


def test_a_step_that_memory_cannot_hold_is_left_out(monkeypatch):
    def compiled(way, size, batch, layout):
        need = {"peak_memory_bytes": 2**40 if size.table_rows == 4000 else 2**20}
        return Program(lambda state, *_: (state, 0), lambda *weights: 0, need)

    monkeypatch.setattr(benchmarks, "compile_step", compiled)
    monkeypatch.setattr(benchmarks, "free_memory", lambda: 2**30)
    limits = Limits({"default": 1.0}, 1.0, 1.0)
    bench = Bench(lambda: limits, silent, paths=("whole-table",), num_runs=30)
    bench.meta_steps([fake_input(3000), fake_input(4000)])
    (record,) = bench.records
    assert (record.benchmark, record.table_rows, record.repeats) == ("meta-step", 3000, 32)
    assert bench.left_out == [
        "whole-table, 2 campaigns x 32 examples, width 4, 4,000 table rows: "
        "needs 1024.0 GiB, 1.0 are free"
    ]


def test_only_what_is_wanted_is_compiled(monkeypatch):
    seen = []

    def note(_, name, way, wanted, inputs, rivals):
        seen.append((name, wanted))
        return [], {}

    monkeypatch.setattr(Bench, "_time_way", note)
    for wanted in (("end to end",), ("meta-step", "end to end")):
        paths = ("row-local", "first-order")
        bench = Bench(lambda: Limits({}, 1.0, 1.0), silent, benchmarks=wanted, paths=paths)
        bench.meta_steps([fake_input(3000)])
    assert seen == [
        ("row-local", ["end to end"]),
        ("row-local", ["meta-step", "end to end"]),
        ("first-order", ["meta-step"]),
    ]


def test_only_the_benchmarks_asked_for_are_run(monkeypatch):
    seen = []
    for name in ("sample", "customise", "score"):
        monkeypatch.setattr(Bench, name, lambda _, size, of, name=name: seen.append(name))
    monkeypatch.setattr(Bench, "meta_steps", lambda _, inputs: seen.append("meta-step"))
    bench = Bench(lambda: Limits({}, 1.0, 1.0), silent, benchmarks=("score", "sample"))
    bench.prepare()
    bench.run([Input(Size(1, 1, 1, 1), None, None, [])])
    assert seen == ["sample", "score", "meta-step"]


def test_a_turn_has_as_many_steps_as_the_first(monkeypatch):
    now, cost = [0.0], [0.9]
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: now[0])

    def step(state, *_):
        now[0] += cost[0]
        return state, 0

    _, _, sampler, batches = fake_input(3000)
    program = Program(step, lambda network, table: 0, {})
    trial = Trial(program, Weights({}, np.zeros((1, 1))), batches, sampler)
    assert trial.bare() == pytest.approx([0.9] * 3)
    cost[0] = 9.0
    assert trial.bare() == pytest.approx([9.0] * 3)
    cost[0] = 0.1
    assert trial.bare() == pytest.approx([0.1] * 3)

    def train(*_, num_steps, log):
        return [step(0) for _ in range(num_steps)], None

    monkeypatch.setattr(benchmarks, "train", train)
    assert trial.end_to_end() == pytest.approx([0.1])


def test_tables_of_other_lengths_are_timed_together(monkeypatch):
    groups = []
    note = lambda _, inputs: groups.append([i.size for i in inputs])  # noqa: E731
    monkeypatch.setattr(Bench, "meta_steps", note)
    monkeypatch.setattr(command, "measure_limits", lambda: Limits({}, 1.0, 1.0))
    options = replace(TINY, campaigns=(2, 1), table_rows=(4000, 3000), benchmarks=("meta-step",))
    run(options, silent)
    assert groups == [[(1, 64, 64, 4000)], [(2, 64, 64, 3000), (2, 64, 64, 4000)]]


def test_customising_is_told_for_a_minibatch_of_the_authors_two_epochs(monkeypatch):
    now, asked = [0.0], []
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: now[0])

    def customise(weights, campaigns, *, epochs):
        asked.append(epochs)
        now[0] += epochs * sum(len(batch.label) for batch in campaigns)

    monkeypatch.setattr(benchmarks, "Customiser", lambda *_, **__: customise)
    size, data, *_ = fake_input(3000)
    bench = Bench(lambda: Limits({"default": 1.0}, 1.0, 1.0), silent)
    bench.customise(size, data)
    assert set(asked) == {2}
    # An example takes a second.
    assert bench.records[0].median_seconds == pytest.approx(size.batch_size)
    assert 0.8 < bench.records[0].executed_flops / bench.records[0].theory_flops < 1.2
    assert json.loads(json.dumps(asdict(bench.records[0]))) == asdict(bench.records[0])


def test_scoring_is_told_for_a_pool_with_the_ids_and_rows_that_it_reads(monkeypatch):
    monkeypatch.setattr(benchmarks, "PoolScorer", lambda *_, **__: lambda *_: None)
    size, data, *_ = fake_input(3000)
    bench = Bench(lambda: Limits({"default": 1.0}, 1.0, 1.0), silent, num_runs=3)
    bench.score(size, data)
    (record,) = bench.records
    users = np.resize(data.user_rows, (benchmarks.POOL, data.user_rows.shape[1]))
    reads = 4 * users.size + 4 * 4 * (users < 3000).sum() + 4 * benchmarks.POOL
    assert record.theory_bytes == reads
    assert 0.8 < record.executed_flops / record.theory_flops < 1.2
    assert json.loads(json.dumps(asdict(record))) == asdict(record)


@pytest.fixture
def again(ran, tmp_path, monkeypatch):
    """Runs the command with the records of before, their times multiplied; its exit code."""
    folder, records = ran

    def exit_code(factor, margin=0.1):
        slower = [Record(**{**r, "median_seconds": factor * r["median_seconds"]}) for r in records]
        bench = Bench(lambda: Limits({}, 1.0, 1.0), silent)
        bench.records = slower
        monkeypatch.setattr(command, "run", lambda options, progress: bench)
        old = folder / "records.json"
        return main(replace(TINY, compare=old, margin=margin, out=tmp_path))

    return exit_code


@pytest.mark.slow
def test_compare_exits_with_1_on_a_loss_beyond_the_margin(again, capsys):
    assert again(1.09) == 0
    assert "LOSS" not in capsys.readouterr().out
    assert again(1.11) == 1
    assert capsys.readouterr().out.count("LOSS") == 4
    assert again(1.11, margin=0.2) == 0
    assert again(0.5) == 0
    assert "0.500 of the old time  meta-step: row-local, 2 x 64" in capsys.readouterr().out


@pytest.mark.slow
def test_compare_takes_records_by_their_key_and_names_another_device(ran):
    _, records = ran
    moved = [r | {"device": "an abacus"} for r in reversed(records)]
    lines, lost = compare(moved[:2], records, 0.1)
    assert len(lines) == 2
    assert not lost
    assert all("1.000" in line and "another device, an abacus" in line for line in lines)
    with pytest.raises(InputError, match="none of this run's records"):
        compare([records[0] | {"table_rows": 5}], records, 0.1)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no such file"),
        ("{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        ("{}", "expected a list of records"),
        ("[]", "expected a list of records"),
        ("[3]", "record 1 lacks 'benchmark'"),
        ('[{"benchmark": "score"}]', "record 1 lacks 'path'"),
    ],
)
def test_a_bad_file_to_compare_with_is_refused_at_once(tmp_path, text, said):
    path = tmp_path / "old.json"
    if text is not None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
    out = tmp_path / "out"
    with pytest.raises(InputError, match=said) as caught:
        main(replace(TINY, compare=path, out=out))
    assert str(caught.value).startswith(f"{path}: ")
    assert not out.exists()


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0, -1.0, None, "fast", math.inf, math.nan])
def test_a_record_without_a_time_is_refused(ran, tmp_path, seconds):
    _, records = ran
    path = tmp_path / "old.json"
    path.write_text(json.dumps([records[0], records[1] | {"median_seconds": seconds}]))
    with pytest.raises(InputError, match=r"record 2 has .* as 'median_seconds'"):
        read_records(path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"campaigns": (0,)}, "--campaigns"),
        ({"batch_size": (8, -1)}, "--batch-size"),
        ({"width": ()}, "--width"),
        ({"table_rows": (1000,)}, "--table-rows"),
        ({"steps": 0}, "--steps"),
        ({"margin": -0.1}, "--margin"),
        ({"benchmarks": ("meta",)}, "--benchmarks: unknown 'meta'"),
        ({"paths": ("whole",)}, "--paths: unknown 'whole'.* whole-table"),
    ],
)
def test_options_out_of_range_are_refused(change, said):
    with pytest.raises(InputError, match=said):
        check(replace(TINY, **change))


def test_records_that_cannot_be_written_are_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "run", None)
    for path in (tmp_path, tmp_path / "none" / "records.json"):
        with pytest.raises(InputError, match="--json: "):
            main(replace(TINY, json=path, out=tmp_path / "out"))
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_table_has_a_line_a_record_and_dashes_where_nothing_is_known(ran):
    _, records = ran
    lines = table([Record(**r) for r in records]).splitlines()
    assert len(lines) == 2 + len(records)
    assert len({line.count("|") for line in lines}) == 1
    assert "| sample: memory-mapped | 2 x 64 | 64 | 3,000 |" in lines[2]
    assert "| - / - / - |" in lines[2]
    assert len(roofline_table([Record(**r) for r in records]).splitlines()) == 2 + 2
    assert asdict(Record(**records[0])) == records[0]


@pytest.mark.slow
def test_a_roofline_tells_the_limit_that_holds(ran):
    record = Record(**ran[1][2])
    # 2 FLOP per byte in 10 s, on machines with a ridge of 1 and of 4 FLOP per byte.
    known = {"executed_flops": 800, "theory_bytes": 400, "median_seconds": 10.0, "loss": 0.25}
    known |= {"matmul_flops_per_second": 100.0, "sheet_flops_per_second": 800.0}
    for copy, ridge, limit, share in (
        (100.0, "1.0", "products", "40.0%"),
        (25.0, "4.0", "memory", "160.0%"),
    ):
        machine = {"copy_bytes_per_second": copy, "gather_bytes_per_second": 80.0}
        line = roofline_table([replace(record, **known, **machine)]).splitlines()[2]
        cells = [cell.strip() for cell in line.split("|")][5:-1]
        assert cells[:2] == ["default", "2.0"]
        assert cells[3:7] == [ridge, limit, "80%", "10.0%"]
        assert cells[8:11] == [share, "50.0%", "0.250000"]


@pytest.mark.slow
def test_the_report_tells_what_sampling_takes_of_a_step(ran):
    records = [Record(**r) for r in ran[1]]
    of_step = replace(records[3], median_seconds=0.1)
    drawn = replace(records[0], median_seconds=0.005)
    placed = replace(records[1], median_seconds=0.001)
    (told,) = [line for line in machine_lines([drawn, placed, of_step]) if "end to end" in line]
    assert "sample 5.0%, to device 1.0%; alone 200 steps/s at most" in told
    assert not any(
        "end to end" in line for line in machine_lines([replace(drawn, width=5), of_step])
    )


def test_a_rival_is_compared_in_the_same_rounds(monkeypatch):
    """The machine slows down: the ratio is 3 in each round, and larger between the medians."""
    now = [0.0]
    monkeypatch.setattr(benchmarks.time, "perf_counter", lambda: now[0])

    def compiled(way, size, batch, layout):
        def step(state, *_):
            now[0] += (3 if way.whole_table else 1) * (1 + now[0]) * 1e-3
            return state, 0

        return Program(step, lambda *weights: 0, {"peak_memory_bytes": 1})

    monkeypatch.setattr(benchmarks, "compile_step", compiled)
    monkeypatch.setattr(benchmarks, "quality", lambda *_, **__: {})
    wanted, paths = ("meta-step",), ("row-local", "whole-table")
    bench = Bench(
        lambda: Limits({"default": 1.0}, 1.0, 1.0), silent, benchmarks=wanted, paths=paths
    )
    bench.meta_steps([fake_input(3000)])
    ours, rival = bench.records
    assert (ours.path, ours.of_row_local, rival.path) == ("row-local", None, "whole-table")
    assert rival.of_row_local == pytest.approx(3, rel=0.05)
    assert rival.median_seconds / ours.median_seconds > 3.1
