"""No compiled program touches a whole table, on devices that this machine need not have."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from experiments.throughput.compiled import PLUGINS, PROGRAMS, on_table

#: More rows than a chip keeps beside its cores; few examples, to compile in seconds.
ROWS, EXAMPLES = 3_344_940, 64
COMPILE = """
import json, sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_enable_compilation_cache", False)
from experiments.throughput.compiled import Size, compile_for
target, program, rows, examples = sys.argv[1:]
found = compile_for(target, program, Size(2, int(examples), 64, int(rows)))
print(json.dumps(found._asdict()))
"""


def figures(target, program, rows=ROWS):
    """Compiles in another process, since a plugin of an accelerator changes the whole process."""
    plugin, package = PLUGINS["cuda" if target == "h100" else "tpu"]
    if find_spec(plugin) is None:
        pytest.skip(f"no compiler for {target}: pip install {package}")
    command = [sys.executable, "-c", COMPILE, target, program, str(rows), str(EXAMPLES)]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": ".:src"}, capture_output=True, text=True
    )
    assert not done.returncode, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("target", ["v5e:1x1", "h100"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_no_program_touches_the_whole_table(target, program):
    found = figures(target, program)
    assert found["on_table"] == []
    assert found["temporary_mb"] < 400  # the table has 856 MB


@pytest.mark.parametrize("target", ["v5p:2x2x1", "v6e:1x1"])
@pytest.mark.parametrize("program", ["meta-step", "score"])
def test_other_tpus_compile_alike(target, program):
    assert figures(target, program)["on_table"] == []


def test_a_copy_of_a_table_is_found():
    lines = """
      %a = f32[1000,64]{1,0:T(8,128)} parameter(0)
      %b = f32[1000,64]{0,1:T(8,128)} copy(%a), backend_config={"estimated_cycles":"17"}
      ROOT %c = f32[1000,64]{1,0} scatter(%b, %i, %u)
      %d = (f32[990,64]{1,0}, s32[4]{0}) fusion(%a), kind=kLoop
      %e = f32[64,990]{1,0} transpose(%d)
      %f = f32[10,64]{1,0} gather(%a, %i)
      %g = s32[1000]{0} copy(%l)
    """
    assert on_table(lines, 1000) == ["copy [1000, 64]", "transpose [64, 990]"]
