"""Kinds of operations, times of nested events, and a real trace."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import pytest

from experiments.throughput.breakdown import (
    ADAM,
    OTHER,
    WAITING,
    breakdown_table,
    instruction_seconds,
    kinds,
    step_breakdown,
)

PROGRAM = """
HloModule jit_step

%fused_computation.1 (param_0: f32[2,3], param_1: f32[3,4]) -> f32[2,4] {
  %param_0 = f32[2,3]{1,0} parameter(0)
  ROOT %dot.1 = f32[2,4]{1,0} dot(%param_0, %param_1), lhs_contracting_dims={1}
}

%inner (p: f32[2,4]) -> f32[2,4] {
  ROOT %gather.2 = f32[2,4]{1,0} gather(%p, %p), offset_dims={1}
}

%outer (p: f32[2,4]) -> f32[2,4] {
  ROOT %call.1 = f32[2,4]{1,0} call(%p), to_apply=%inner
}

ENTRY %main.1 (a: f32[2,3]) -> (f32[2,4], f32[]) {
  %a = f32[2,3]{1,0} parameter(0)
  %ynn_fusion = f32[2,4]{1,0} fusion(%a, %a), kind=kCustom, calls=%fused_computation.1
  %fusion.7 = f32[2,4]{1,0} fusion(%ynn_fusion), kind=kLoop, calls=%outer
  %add.3 = f32[2,4]{1,0} add(%fusion.7, %fusion.7), metadata={op_name="jit(step)/adam/add"}
  %gather.9 = f32[2,4]{1,0} gather(%a, %a), metadata={op_name="jit(step)/adam/gather"}
  ROOT %exponential.2 = f32[2,4]{1,0} exponential(%add.3), metadata={op_name="jit(adams)/exp"}
}
"""


def test_the_kind_of_an_instruction_is_that_of_what_it_calls():
    found = kinds(PROGRAM)
    assert found["ynn_fusion"] == found["dot.1"] == "products"
    assert found["fusion.7"] == found["call.1"] == "gathers and scatters"
    assert found["add.3"] == found["gather.9"] == ADAM
    assert found["exponential.2"] == found["a"] == OTHER


def event(start, end, name, **stats):
    return SimpleNamespace(start_ns=start * 1e9, end_ns=end * 1e9, name=name, stats=stats.items())


def test_time_inside_another_instruction_or_thread_counts_once():
    main = [
        event(0, 10, "while.1", hlo_op="while.1"),
        event(1, 4, "dot.1", hlo_op="dot.1"),
        event(2, 2, "ThreadpoolListener::Record", _p=7),  # a part of the product, for any thread
        event(5, 8, "add.1", hlo_op="add.1"),
        event(9, 9, "ThreadpoolListener::Record", _p=8),  # the loop goes on elsewhere
        event(12, 13, "add.1", hlo_op="add.1"),
        event(14, 20, "python"),
    ]
    other = [
        event(2, 2, "ThreadpoolListener::StartRegion", _c=7),
        event(5, 5, "ThreadpoolListener::StopRegion"),
        event(20, 20, "ThreadpoolListener::StartRegion", _c=8),
        event(21, 24, "exp.1", hlo_op="exp.1"),
        event(25, 25, "ThreadpoolListener::StopRegion"),
        event(30, 30, "ThreadpoolListener::StartRegion", _c=99),  # of another program
        event(39, 39, "ThreadpoolListener::StopRegion"),
        event(40, 40, "ThreadpoolListener::StartRegion", _c=8),  # the trace ends before it
        event(41, 43, "exp.1", hlo_op="exp.1"),
    ]
    lines = [SimpleNamespace(events=main[::-1]), SimpleNamespace(events=other)]
    trace = SimpleNamespace(planes=[SimpleNamespace(lines=lines)])
    # The loop: 10 s without 3 and 3 inside, and the 5 s of its task without 3.
    expected = {"while.1": 4 + 2, "dot.1": 3 + 3, "add.1": 3 + 1, "exp.1": 3 + 2}
    assert instruction_seconds(trace) == pytest.approx(expected)


def test_a_real_step_is_broken_down(tmp_path):
    @jax.jit
    def step(a):
        with jax.named_scope("adam"):
            moved = jnp.sort(a, axis=0)
        return jnp.cumsum(a @ a @ a, axis=0) + moved

    a = jnp.ones((400, 400))
    compiled = step.lower(a).compile()
    found = step_breakdown(compiled.as_text(), lambda _: compiled(a), 3, tmp_path)
    assert list(tmp_path.rglob("*.xplane.pb"))
    assert set(found) == {"products", "gathers and scatters", OTHER, ADAM, WAITING}
    assert found["products"] > 1e-5
    assert found[OTHER] > 1e-5
    assert found[ADAM] > 0
    assert found["gathers and scatters"] == 0
    line = breakdown_table({"a step": found}).splitlines()[2]
    assert line.startswith(f"| a step | {1e3 * sum(found.values()):.1f} | ")
