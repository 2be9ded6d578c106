"""Bytes of collectives, as XLA's text has them."""

import pytest
from commands import module, refuses

from experiments.throughput import collectives as command
from experiments.throughput.collectives import collectives, touched_rows
from experiments.throughput.inputs import FIXED_ROWS, Size

PROGRAM = """
  %psum.1 = f32[5120,64]{1,0} all-reduce(%x), replica_groups={{0,1},{2,3}}, to_apply=%r
  %all-reduce.1 = (f32[5]{0}, /*index=1*/f32[64,8]{1,0}, f32[]) all-reduce(%a, %b, %c), \
channel_id=1, replica_groups=[1,4]<=[4], use_global_device_ids=true, to_apply=%r
  %all_gather.6 = s32[4]{0} all-gather(%y), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  %fusion = f32[8,8]{1,0} fusion(%all-reduce.1), kind=kLoop, calls=%all-reduce_fusion
"""


def test_bytes_are_those_of_all_results():
    assert collectives(PROGRAM) == [
        ("all-reduce", "{{0,1},{2,3}}", 5120 * 64 * 4),
        ("all-reduce", "[1,4]<=[4]", (5 + 64 * 8 + 1) * 4),
        ("all-gather", "{{0,1,2,3}}", 16),
    ]


def test_few_examples_touch_few_rows_and_many_touch_most_of_the_small_fields():
    few, many = (touched_rows(Size(1, batch, 8, 20_000)) for batch in (1, 5000))
    assert few < 100
    assert FIXED_ROWS / 2 < many <= 20_000


@pytest.mark.parametrize(
    ("option", "value", "minimum"),
    [
        ("--campaigns", 0, 1),
        ("--batch-size", 0, 1),
        ("--width", 0, 1),
        ("--table-rows", 1000, FIXED_ROWS + 1000),
        ("--users", 19, 20),
    ],
)
def test_a_size_that_no_inputs_have_is_refused(capsys, option, value, minimum):
    words = (f"{option}: expected {minimum} or more, got {value}",)
    refuses(capsys, module(command), option, value, words=words)
