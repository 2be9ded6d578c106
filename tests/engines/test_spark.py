"""Spark in local mode: the audiences of the library."""

import shutil
import sys

import polars as pl
import pytest
from engine_world import CAMPAIGNS, WRONG, same

pytest.importorskip("pyspark", reason="needs pip install 'metaheac-jax[spark]'")
if shutil.which("java") is None:
    pytest.skip("needs Java 17: apt-get install openjdk-17-jre-headless", allow_module_level=True)

from pyspark.sql import SparkSession

from metaheac_jax.engines import spark as module
from metaheac_jax.engines.spark import expand_on_spark
from metaheac_jax.errors import InputError

# jax warns as Spark starts Java from this process.
pytestmark = pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning")


@pytest.fixture(scope="module")
def spark(workers):
    settings = {
        "spark.ui.enabled": "false",
        "spark.sql.shuffle.partitions": "2",
        "spark.driver.host": "127.0.0.1",
        "spark.driver.bindAddress": "127.0.0.1",
    }
    builder = SparkSession.builder.master("local[2]").config(map=settings)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("OFF")
    yield session
    session.stop()


def frame_of(spark, table):
    return spark.createDataFrame(table.to_arrow())


@pytest.fixture(scope="module")
def users(spark, made):
    return frame_of(spark, made.users).repartition(5)


def test_excluded_users_are_in_no_audience(spark, made, users, tmp_path):
    """Fewer are left than the audience would hold; control groups are the same."""
    one = made.seeds.select("user_id").vstack(made.users[::2].select(user_id="uid"))
    exclude = frame_of(spark, one)
    found = expand_on_spark(users, made.export, 5000, exclude=exclude, hold_out=0.3)
    found.write.parquet(str(tmp_path / "audiences"))
    written = pl.read_parquet(tmp_path / "audiences/*.parquet")
    expected = made.audiences(5000, exclude=one["user_id"].to_list(), hold_out=0.3)
    assert same(written, expected)


def test_histories_are_joined_from_examples(spark, made, historic, users):
    examples = frame_of(spark, made.examples).repartition(3)
    with pytest.raises(InputError, match="examples: no column 'campaign_id'"):
        expand_on_spark(users, historic.export, 50)
    seeds = frame_of(spark, made.seeds.filter(campaign_id=CAMPAIGNS[2]))
    found = expand_on_spark(users, historic.export, 50, examples=examples, exclude=seeds)
    assert same(pl.from_arrow(found.toArrow()), historic.audiences(50))


@pytest.mark.parametrize(("change", "message"), WRONG[-2:])
def test_wrong_users_are_refused_before_they_are_scored(spark, made, change, message):
    with pytest.raises(InputError, match=message) as refused:
        expand_on_spark(frame_of(spark, change(made.users)), made.export, 5)
    assert "\n" not in str(refused.value)


def test_the_command_writes_audiences_or_one_line(spark, made, monkeypatch, tmp_path, capsys):
    made.seeds.write_parquet(tmp_path / "seeds.parquet")
    arguments = ["spark", str(made.export), str(made.folder / "users.parquet")]
    options = ["--size", "9", "--exclude", str(tmp_path / "seeds.parquet")]
    monkeypatch.setattr(sys, "argv", [*arguments, str(tmp_path / "out"), *options])
    module.main()
    assert same(pl.read_parquet(tmp_path / "out/*.parquet"), made.audiences(9))
    monkeypatch.setattr(
        sys, "argv", [*arguments[:2], str(tmp_path / "seeds.parquet"), "x", *options]
    )
    with pytest.raises(SystemExit) as ended:
        module.main()
    assert ended.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: users: no column 'uid'")
    assert not (tmp_path / "x").exists()


def test_excluded_users_need_ids(spark, made, users):
    for seeds, message in (
        (made.seeds.drop("user_id"), "exclude: no column 'user_id'"),
        (made.seeds.with_columns(user_id=1), "exclude: 'user_id' is of type int"),
    ):
        with pytest.raises(InputError, match=message):
            expand_on_spark(users, made.export, 5, exclude=frame_of(spark, seeds))


def test_the_page_can_be_pasted(spark, made, scale_page, tmp_path):
    exec(scale_page("spark"), {})
    found = pl.read_parquet(tmp_path / "audiences-spark/*.parquet")
    assert same(found, made.audiences(2000))
