"""Trainings on meshes of devices equal those on one; the devices are made of one CPU, in a process
apart, since jax must be told before it starts.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import eight_devices
import jax
import pytest

from metaheac_jax.errors import InputError
from metaheac_jax.training.sharding import Placement, device_mesh, parse_mesh


def printed(folder, *methods):
    """What `eight_devices.py` prints."""
    script = Path(eight_devices.__file__)
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1"
    ran = subprocess.run(
        [sys.executable, script, folder, *methods],
        env=os.environ
        | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    return json.loads(ran.stdout)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return printed(tmp_path_factory.mktemp("checkpoints"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", eight_devices.MESHES)
def test_fifty_steps_on_eight_devices_are_those_on_one(found, mesh):
    """Also where the devices divide neither the 5 campaigns of a step nor the table's 46 rows."""
    assert found["moved"] > 0.1
    assert found["meshes"][str(mesh)]["difference"] <= 1e-6


@pytest.mark.slow
def test_a_sum_over_campaigns_is_the_same_on_a_mesh(found):
    assert found["summed"] <= 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("mesh", eight_devices.MESHES)
def test_a_device_holds_only_its_rows(found, mesh):
    """A table that is too large for one device is held by several."""
    assert found["meshes"][str(mesh)]["holds"] == [1 / mesh[1]] * 2


@pytest.mark.slow
def test_a_training_moves_from_one_device_to_four_to_eight_and_back(found):
    """It resumes each time, and its last checkpoint is restored on 1 device, 4 x 2 and 1 x 8."""
    gap, first = found["moved on"]
    assert gap <= 1e-6
    assert first == [0, 20, 30, 40]


@pytest.mark.slow
def test_a_step_that_is_not_finite_on_one_device_is_taken_by_none(found):
    assert found["not finite"] == [False, 0, 0, 0]


@pytest.mark.slow
def test_campaigns_adapt_apart_within_a_users_shard_map(found):
    assert found["mapped"] <= 1e-4


@pytest.mark.slow
def test_a_step_on_parameters_of_a_mesh_is_compiled_once(found):
    """The optimiser's counter has no place of its own."""
    assert found["replicated"] == 1


def alike(gap, moment):
    """Also the moments of Adam, which does not care how large a gradient is."""
    assert gap <= 1e-6
    assert moment > 1e-4


@pytest.mark.slow
def test_a_method_trains_on_several_devices_as_on_one(found):
    alike(*found["mlp-pretraining"])


@pytest.mark.slow
def test_a_solved_head_trains_on_several_devices_as_on_one(tmp_path):
    alike(*printed(tmp_path, "solved-head")["solved-head"])


@pytest.mark.parametrize("text", ["", "4", "row=0", "row=2,row=4", "rows=2", "campaign=4, row=2"])
def test_a_mesh_that_cannot_be_read_is_refused(text):
    with pytest.raises(InputError, match=r"expected the size of .* such as campaign=4,row=2"):
        parse_mesh(text)
    assert parse_mesh("row=2,campaign=40") == {"row": 2, "campaign": 40}


def test_a_mesh_of_more_devices_than_there_are_is_refused(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    with pytest.raises(InputError, match=r"takes 8 devices, and jax has 1 \(cpu\); .* at most 1"):
        device_mesh(campaign=4, row=2)
    for size in (0, "2"):
        with pytest.raises(InputError, match="mesh: row: expected a whole number of 1 or more"):
            device_mesh(row=size)


def test_a_table_that_does_not_fit_is_refused():
    """A process knows the memory of its own devices alone."""
    memory = {"bytes_limit": 40_000}
    device = SimpleNamespace(platform="gpu", memory_stats=lambda: memory)
    mesh = SimpleNamespace(local_devices=[device], shape={"campaign": 1, "row": 1})
    place = Placement(mesh, 1, 1000)
    place.check_memory(3)  # (3 * 3 + 1) numbers a row
    with pytest.raises(InputError, match=r"a table of 1,000 rows takes 0.0001 GB.*as with row=3"):
        place.check_memory(8)
    memory.clear()
    place.check_memory(8)  # a CPU says nothing of its memory
