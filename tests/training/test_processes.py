"""Several processes over loopback do what one does; if one is killed the others end, and resume."""

import atexit
import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from toy import dataset, write_dataset

from metaheac_jax import processes
from metaheac_jax.errors import InputError

FLAGS = "--xla_force_host_platform_device_count=2 --xla_backend_optimization_level=1"
SCRIPT = Path(__file__).parents[1] / "several_processes.py"
#: `metaheac` with tiny settings, and a checkpoint at every record.
COMMAND = """
from commands import tiny_settings
from metaheac_jax.cli.main import main
from metaheac_jax.training.loop import Training
Training.__init__.__kwdefaults__.update(save_seconds=0)
with tiny_settings(campaigns_per_step=4):
    main()
"""


def free_port():
    """A port that stays bound, so that no other process gets it; the coordinator may share it."""
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    found.bind(("127.0.0.1", 0))
    atexit.register(found.close)
    return found.getsockname()[1]


def start(*words):
    environment = {"XLA_FLAGS": FLAGS, "JAX_PLATFORMS": "cpu", "GLIBC_TUNABLES": ""}
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def results(count, folder, what):
    """What each of so many processes has found."""
    port = free_port()
    jobs = [start(SCRIPT, port, number, count, folder, what) for number in range(count)]
    told = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0] * count, told
    return json.loads(told[0][0].splitlines()[-1])


@pytest.mark.slow
@pytest.mark.parametrize("count", [2, 4])
def test_several_processes_do_what_one_does(tmp_path, count):
    """Steps, a checkpoint and what goes on from it; of four, the last has no campaign."""
    for own in results(count, tmp_path, "steps"):
        assert own["difference"] <= 1e-6
        assert own["first"] == [0, 20]


@pytest.mark.slow
def test_a_method_trains_and_is_judged_in_two_processes(tmp_path):
    assert max(results(2, tmp_path, "methods")) <= 1e-5


def metaheac(*words):
    return start("-c", COMMAND, *words)


def in_two(*words):
    """Two processes of a command."""
    job, port = (*words, "--mesh", "campaign=2,row=2", "--processes"), free_port()
    return [metaheac(*job, f"{number}/2@127.0.0.1:{port}") for number in range(2)]


METAHEAC = ("--method", "metaheac", "--set")


def fit(folder, out, *words):
    return in_two("fit", folder / "data", out, *METAHEAC, "offline_epochs=3", *words)


def wait_for(training, jobs, *, seconds=600):
    """Waits until running jobs have saved a checkpoint; stops them if that takes too long."""
    end = time.monotonic() + seconds
    while not [*training.glob("[0-9]*/checkpoint.json")]:
        assert [job.poll() for job in jobs] == [None] * len(jobs)
        if time.monotonic() > end:
            for job in jobs:
                job.kill()
            pytest.fail(f"no checkpoint in {training} after {seconds} s")
        time.sleep(0.1)


def ended(*jobs):
    """Waits for jobs that end well, and gives what each prints."""
    told = [job.communicate() for job in jobs]
    assert [job.returncode for job in jobs] == [0] * len(jobs), told
    return [text for text, _ in told]


LATE = """
import sys, time
from metaheac_jax.processes import from_each, join_job
join_job(sys.argv[1], int(sys.argv[2]), 2)
if sys.argv[2] == "1":
    time.sleep(40)
print(from_each(sys.argv[2]))
"""


@pytest.mark.slow
def test_a_process_waits_for_one_that_is_late():
    address = f"127.0.0.1:{free_port()}"
    jobs = [start("-c", LATE, address, number) for number in range(2)]
    assert [text.splitlines()[-1] for text in ended(*jobs)] == ["['0', '1']"] * 2


@pytest.mark.slow
def test_a_process_that_is_told_to_stop_ends_and_so_do_the_others(tmp_path):
    write_dataset(dataset(), tmp_path / "data")
    jobs = in_two("fit", tmp_path / "data", tmp_path / "model", *METAHEAC, "offline_epochs=500")
    wait_for(tmp_path / "model.training", jobs)
    jobs[1].send_signal(signal.SIGTERM)
    _, error = jobs[1].communicate(timeout=60)
    assert (jobs[1].returncode, "stopped; run the same" in error) == (130, True)
    jobs[0].communicate(timeout=120)
    assert jobs[0].returncode != 0


def two_processes(monkeypatch, theirs):
    """Lets this be one of two processes, of which the other has a value."""
    sent = pickle.dumps(theirs)

    def gather(array):
        other = np.frombuffer(sent, np.uint8)
        if len(array) == 8 and not sizes:
            sizes.append(array.view(np.int64)[0])
            other = np.frombuffer(np.int64(len(sent)).tobytes(), np.uint8)
        else:
            other = np.pad(other, (0, len(array) - len(other)))
        assert array.dtype == np.uint8  # which jax sends as they are
        return np.stack([array, other])

    sizes = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes.multihost_utils, "process_allgather", gather)


def test_what_each_sends_is_received(monkeypatch):
    two_processes(monkeypatch, {"theirs": 2})
    assert processes.from_each("ours") == ["ours", {"theirs": 2}]


def test_processes_with_different_files_are_refused(monkeypatch):
    two_processes(monkeypatch, ("a", 5))
    processes.check_same("data", ("a", 5))
    two_processes(monkeypatch, ("b", 5))
    with pytest.raises(InputError, match="data: not the same in all processes"):
        processes.check_same("data", ("a", 5))


def test_each_process_takes_its_part_and_all_get_the_whole_in_order(monkeypatch):
    parts = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    for number in range(2):
        monkeypatch.setattr(jax, "process_index", lambda number=number: number)
        parts.append([f"item {item}" for item in processes.part_of_process(5)])
    assert sorted(map(len, parts)) == [2, 3]
    monkeypatch.setattr(processes, "from_each", lambda own: parts)
    whole = [f"item {item}" for item in range(5)]
    assert processes.gathered(parts[1], 5) == whole


@pytest.mark.slow
def test_if_a_process_is_killed_the_others_end_and_a_restart_resumes_exactly(tmp_path):
    write_dataset(dataset(), tmp_path / "data")
    jobs = fit(tmp_path, tmp_path / "model")
    wait_for(tmp_path / "model.training", jobs)
    jobs[1].send_signal(signal.SIGKILL)
    _, error = jobs[0].communicate(timeout=600)  # ends by itself
    assert jobs[0].returncode != 0
    assert "another process of the job has ended" in error or "another task died" in error
    assert not (tmp_path / "model").exists()
    jobs[1].communicate()

    ended(*fit(tmp_path, tmp_path / "model"))
    ended(*fit(tmp_path, tmp_path / "whole"))
    for path in (tmp_path / "whole").rglob("*.npy"):
        resumed = np.load(tmp_path / "model" / path.relative_to(tmp_path / "whole"))
        np.testing.assert_array_equal(resumed, np.load(path))
