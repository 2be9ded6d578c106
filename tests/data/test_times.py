"""Times of examples: read in any form, kept, and a limit of training and of judging."""

from datetime import UTC, date, datetime, timedelta, timezone

import polars as pl
import pytest
from tables_world import SCHEMA, world, write

import metaheac_jax as mh
from metaheac_jax.data.table_file import Table
from metaheac_jax.data.times import parse_time, time_cells
from metaheac_jax.errors import InputError


def cells(values, **options):
    table = Table(pl.DataFrame({"time": values}, **options), ["time"], name="examples")
    return table.collect(table.scan().select(time_cells(table, "time"))).to_series().to_list()


def test_all_forms_of_a_time_are_the_same():
    noon = int(datetime(2026, 5, 1, 12, 30, tzinfo=UTC).timestamp() * 1e6)
    day = noon - 45_000 * 10**6
    zone = timezone(timedelta(hours=2))
    for text in ("2026-05-01T12:30", "2026-05-01 12:30:00", "2026-05-01T12:30:00.000Z"):
        assert parse_time(text, "--until") == noon
        assert cells([text]) == [noon]
    assert cells(["2026-05-01T14:30+02:00", "2026-05-01 12:30:00Z"]) == [noon, noon]
    assert cells([datetime(2026, 5, 1, 14, 30, tzinfo=zone)]) == [noon]
    assert cells([datetime(2026, 5, 1, 12, 30)]) == [noon]
    assert cells([date(2026, 5, 1)]) == cells(["2026-05-01"]) == [day]
    assert parse_time("2026-05-01", "--until") == day


@pytest.mark.parametrize("wrong", ["x", "2026-13-01", "1700000000", ""])
def test_what_is_no_time_is_named_with_its_row(wrong):
    with pytest.raises(InputError, match=r"--until: .* is no time; give a date"):
        parse_time(wrong, "--until")
    with pytest.raises(InputError, match=r"examples: row 2: time is .*, expected a date"):
        cells(["2026-05-01", wrong])


def test_a_missing_time_and_mixed_zones_are_refused():
    for values, row in (([None, "2026-05-01"], 1), (["2026-05-01", None], 2)):
        with pytest.raises(InputError, match=f"row {row}: time is None, expected a date"):
            cells(values)
    with pytest.raises(InputError, match=r"row 2: .* expected a zone in all rows or in none"):
        cells(["2026-05-01T00:00Z", "2026-05-01T00:00"])
    with pytest.raises(InputError, match="row 1: time is 1, expected a date"):
        cells([1, 2])


def test_times_are_kept_and_given_in_both_or_in_none(tmp_path):
    users, campaigns, examples = world()
    write(tmp_path / "tables", users, campaigns, examples)
    path = tmp_path / "tables" / "examples.csv"
    frame, start = pl.read_csv(path), date(2026, 1, 1)
    days = [start + timedelta(days=n % 90) for n in range(len(frame))]
    frame.with_columns(time=pl.Series(days)).write_csv(path)
    data = mh.prepare(tmp_path / "tables", tmp_path / "data", schema=SCHEMA)
    new = pl.DataFrame({"campaign_id": ["k0"], "user_id": users["user_id"][:1], "label": [1]})
    later = new.with_columns(time=pl.lit("2030-01-01"))
    with pytest.raises(InputError, match="examples: has no column 'time', and the examples of"):
        mh.add(data, examples=new)
    data = mh.add(data, examples=later)
    assert data.stage1.time.max() == parse_time("2030-01-01", "t")
    kept = data.until(parse_time("2026-02-01", "t"))
    assert kept.end == kept.stage1.time.max() + 86_400 * 10**6
    early = sum(day < date(2026, 2, 1) for day in days)
    assert len(kept.stage1.user) + len(kept.stage2.user) in (early, early - 1)  # k0's may be later
    plain = mh.prepare(write(tmp_path / "b", users, campaigns, examples), tmp_path / "plain")
    with pytest.raises(InputError, match=r"has a column 'time', and the examples of .* have none"):
        mh.add(plain, examples=later)
    with pytest.raises(InputError, match="examples have no times; add the column 'time'"):
        plain.until(0)
