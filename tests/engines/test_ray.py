"""Ray on this machine: the audiences of the library.

`engines_walk` has histories on both engines.
"""

import os
import signal
import threading
import time
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest
from engine_world import CAMPAIGNS, WRONG, same

ray = pytest.importorskip("ray", reason="needs pip install 'metaheac-jax[ray]'")
pytest.importorskip("ray.data", reason="needs pip install 'metaheac-jax[ray]'")

from metaheac_jax.engines.ray import expand_on_ray  # noqa: E402
from metaheac_jax.errors import InputError  # noqa: E402

pytestmark = [
    pytest.mark.filterwarnings(r"ignore:os.fork\(\) was called:RuntimeWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
]


@pytest.fixture(scope="module", autouse=True)
def cluster(workers):
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="error")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    yield
    ray.shutdown()


def dataset_of(table, parts=1):
    """A dataset in several blocks."""
    size = -(-table.height // parts)
    return ray.data.from_arrow([own.to_arrow() for own in table.iter_slices(size)])


def table(found):
    return pl.from_arrow(pa.concat_tables(ray.get(found.to_arrow_refs())))


@pytest.mark.slow
def test_histories_are_joined_from_examples(made, historic):
    users, examples = dataset_of(made.users, 3), dataset_of(made.examples, 3)
    with pytest.raises(InputError, match="examples: no column 'campaign_id'"):
        expand_on_ray(users, historic.export, 50)
    seeds = dataset_of(made.seeds.filter(campaign_id=CAMPAIGNS[2]))
    found = expand_on_ray(users, historic.export, 50, examples=examples, exclude=seeds)
    assert same(table(found), historic.audiences(50))


def kill_a_worker(killed):
    """Kills the first process that scores, once it has begun to."""
    until = time.monotonic() + 120
    while time.monotonic() < until:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                name = (process / "cmdline").read_bytes()
            except OSError:  # it has just ended
                continue
            if name.startswith(b"ray::") and b"_Best" in name and b"submit" in name:
                os.kill(int(process.name), signal.SIGKILL)
                killed.append(name)
                return
        time.sleep(0.01)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(made):
    def slowly(users):
        time.sleep(0.3)
        return users

    users = dataset_of(made.users, 12).map_batches(slowly, batch_format="pyarrow")
    killed = []
    killer = threading.Thread(target=kill_a_worker, args=(killed,))
    killer.start()
    seeds = dataset_of(made.seeds)
    found = expand_on_ray(users, made.export, 250, exclude=seeds, num_workers=2)
    killer.join()
    assert killed
    assert same(table(found), made.audiences(250))


def test_excluded_users_are_in_no_audience(made, tmp_path):
    """Fewer are left than the audience would hold; control groups are the same."""
    gone = made.users[::2].select(user_id="uid")
    one = made.seeds.select("user_id").vstack(gone)
    users = dataset_of(made.users, 3)
    found = expand_on_ray(users, made.export, 5000, exclude=dataset_of(one), hold_out=0.3)
    found.write_parquet(str(tmp_path / "audiences"))
    written = pl.read_parquet(tmp_path / "audiences/*.parquet")
    expected = made.audiences(5000, exclude=one["user_id"].to_list(), hold_out=0.3)
    assert same(written, expected)


@pytest.mark.parametrize(("change", "message"), WRONG[-3:])
def test_wrong_users_are_refused_before_they_are_scored(made, change, message):
    with pytest.raises(InputError, match=message) as refused:
        expand_on_ray(dataset_of(change(made.users)), made.export, 5)
    assert "\n" not in str(refused.value)


@pytest.mark.slow
def test_the_page_can_be_pasted(made, scale_page, tmp_path):
    exec(scale_page("ray").replace("ray.init(num_cpus=3)\n", ""), {})
    assert same(pl.read_parquet(tmp_path / "audiences-ray/*.parquet"), made.audiences(2000))


@pytest.mark.slow
def test_a_job_goes_on_with_the_users_that_are_left(made, tmp_path):
    """The first run scores half of the users, the second one the others."""
    (tmp_path / "users").mkdir()
    exclude, kept = dataset_of(made.seeds), tmp_path / "kept"
    for part, own in enumerate(made.users.iter_slices(1500)):
        own.write_parquet(tmp_path / "users" / f"{part}.parquet")
        users = ray.data.read_parquet(str(tmp_path / "users"))
        found = expand_on_ray(users, made.export, 250, exclude=exclude, checkpoint=str(kept))
    assert same(table(found), made.audiences(250))
    scored = pl.read_parquet(kept / "*" / "scores" / "*.parquet")
    assert scored.height == scored["user_id"].n_unique() == 3000
