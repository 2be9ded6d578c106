"""Text in blocks: whole lines in order, and tokens read eight bytes at a time as by one."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from metaheac_jax.data.sources import text_blocks
from metaheac_jax.data.sources.text_blocks import LEAD, Malformed, Tokens, parse_file
from metaheac_jax.errors import InputError
from metaheac_jax.progress import silent


def tokens(*words):
    return Tokens.of(LEAD + b"".join(word + b"\n" for word in words), b"\n")


def read_integers(path, progress=silent, **options):
    """The numbers of a file that has one on each line."""

    def parse(block):
        found = Tokens.of(block, b"\n")
        return (found.integers(np.arange(len(found.end))),)

    def fault(line):
        return "" if text_blocks.is_integer(line) else f"not a number: {text_blocks.show(line)}"

    return [int(x) for (part,) in parse_file(path, parse, fault, progress, **options) for x in part]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    numbers=st.lists(st.integers(0, 10**16 - 1), min_size=1, max_size=30),
    block=st.integers(1, 40),
    end=st.sampled_from(["", "\n"]),
)
def test_lines_are_read_whole_and_in_order_whatever_the_blocks(tmp_path, numbers, block, end):
    path = tmp_path / "x"
    path.write_text("\n".join(map(str, numbers)) + end)
    seen = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_blocks, "BLOCK", block)
        assert read_integers(path, lambda *call: seen.append(call)) == numbers
    size = path.stat().st_size
    assert seen[-1] == ("x", size, size)
    assert [call[1] for call in seen] == sorted(call[1] for call in seen)


def test_the_first_faulty_line_is_named_whatever_the_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(text_blocks, "BLOCK", 16)
    path = tmp_path / "x"
    path.write_text("count\n" + "12\n" * 20 + "a\nb\n")
    with pytest.raises(InputError, match="line 22: not a number: 'a'; fix the line"):
        read_integers(path, header="count")
    with pytest.raises(InputError, match="line 1: expected the header 'number', got 'count"):
        read_integers(path, header="number")


@given(st.lists(st.from_regex(rb"[0-9]{1,16}", fullmatch=True), min_size=1))
def test_integers_of_up_to_sixteen_digits(words):
    found = tokens(*words)
    assert found.integers(np.arange(len(words))).tolist() == [int(word) for word in words]


@given(st.from_regex(rb"[0-9]{0,10}[^0-9\n][0-9]{0,10}", fullmatch=True))
def test_what_has_another_byte_than_digits_is_malformed(word):
    with pytest.raises(Malformed):
        tokens(b"1", word).integers(np.array([0, 1]))


def test_what_is_too_long_or_empty_is_malformed():
    with pytest.raises(Malformed):
        tokens(b"12345678901234567").integers(np.array([0]))
    with pytest.raises(Malformed):
        tokens(b"1", b"", b"2")


#: Names that end alike, in their last eight bytes or in more.
NAMES = (
    *(b"a", b"aa", b"0a", b"age", b"consumptionAbility", b"consumptionAbilitx"),
    *(b"xonsumptionAbility", b"sumptionAbility", b"onsumptionAbility"),
)
names = st.sampled_from(NAMES)


@given(st.lists(names, min_size=1), st.lists(names, min_size=1, unique=True))
def test_a_token_matches_its_own_text_alone(words, texts):
    found = tokens(*words).matches(np.arange(len(words)), texts)
    for text, places in zip(texts, found, strict=True):
        assert places.tolist() == [i for i, word in enumerate(words) if word == text]


def test_separators_stand_before_their_tokens():
    found = Tokens.of(LEAD + b"uid 7|age 30\nx\n", b" |\n")
    assert bytes(found.before) == b"\n | \n"
    assert found.length.tolist() == [3, 1, 3, 2, 1]
