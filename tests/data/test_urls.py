"""Tables by URL: an S3 server on this machine, and partitions that differ."""

import io
from dataclasses import replace

import polars as pl
import pytest
import tables_world

import metaheac_jax as mh
from metaheac_jax.data.table_file import Table
from metaheac_jax.errors import InputError

BUCKET = "tables"


@pytest.fixture(scope="module")
def bucket():
    """Puts files into a bucket."""
    server = pytest.importorskip("moto.server", reason="needs pip install 'moto[server]'")
    boto3 = pytest.importorskip("boto3")
    s3 = server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    s3.start()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", "http://{}:{}".format(*s3.get_host_and_port()))
        patch.setenv("AWS_ALLOW_HTTP", "true")
        client = boto3.client("s3")
        client.create_bucket(Bucket=BUCKET)
        yield lambda name, content: client.put_object(Bucket=BUCKET, Key=name, Body=content)
    s3.stop()


def parquet(frame):
    file = io.BytesIO()
    frame.write_parquet(file)
    return file.getvalue()


def test_tables_of_a_url_are_those_of_files(bucket, tmp_path):
    """Users in nested partitions, as Spark writes them."""
    users, campaigns, examples = tables_world.world()
    source = tables_world.write(tmp_path / "tables", users, campaigns, examples, "parquet")
    frame = pl.read_parquet(source / "users.parquet")
    (source / "users.parquet").unlink()
    for part, own in enumerate(frame.iter_slices(40)):
        name = f"users/day={part}/hour=0{part}/part-0.parquet"
        (source / name).parent.mkdir(parents=True)
        own.write_parquet(source / name)
        bucket(name, parquet(own))
    for name in ("campaigns.parquet", "examples.parquet"):
        bucket(name, (source / name).read_bytes())
    bucket("users/_SUCCESS", b"")
    schema = tables_world.SCHEMA
    options = {"schema": replace(schema, user=schema.user[:2])}
    found = mh.prepare(f"s3://{BUCKET}", tmp_path / "found", **options)
    expected = mh.prepare(source, tmp_path / "expected", **options)
    assert found.user_ids.tolist() == expected.user_ids.tolist()
    assert (found.user_rows[:] == expected.user_rows[:]).all()
    assert Table(f"s3://{BUCKET}/users").names[-2:] == ["day", "hour"]


def test_csv_by_url(bucket, tmp_path):
    bucket("csv/campaigns.csv", b"campaign_id,topic\n1,tea\n2,golf\n")
    table = Table(f"s3://{BUCKET}/csv/campaigns.csv")
    assert table.ids("campaign_id").to_list() == [1, 2]
    bucket("csv/campaigns.csv", b"campaign_id,topic\n1,tea\n2\n")
    with pytest.raises(InputError, match=rf"s3://{BUCKET}/csv/campaigns.csv: line 3: expected 2"):
        Table(f"s3://{BUCKET}/csv/campaigns.csv")


def test_what_is_not_there_is_named(bucket, tmp_path):
    with pytest.raises(InputError, match=f"s3://{BUCKET}/empty: has no users"):
        mh.prepare(f"s3://{BUCKET}/empty", tmp_path / "data")
    with pytest.raises(InputError, match=f"s3://{BUCKET}/none.parquet: no such file"):
        Table(f"s3://{BUCKET}/none.parquet")


@pytest.mark.parametrize("change", [{"new": 1}, None])
def test_partitions_with_other_columns_are_refused(tmp_path, change):
    frame = pl.DataFrame({"user_id": [1, 2], "city": ["a", "b"]})
    other = frame.drop("city") if change is None else frame.with_columns(**change)
    for day, own in enumerate((frame, other)):
        (tmp_path / f"day={day}").mkdir()
        own.write_parquet(tmp_path / f"day={day}" / "part.parquet")
    with pytest.raises(InputError, match="cannot be read") as refused:
        Table(tmp_path).collect(Table(tmp_path).scan())
    assert "new" in str(refused.value) or "city" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_delta_table_is_read_without_removed_rows(tmp_path):
    pytest.importorskip("deltalake")
    for rows in ([1, 2, 3], [4]):
        pl.DataFrame({"user_id": rows}).write_delta(tmp_path / "users", mode="overwrite")
    assert Table(tmp_path / "users").ids("user_id").to_list() == [4]
