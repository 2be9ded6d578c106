"""Errors keep their kind on their way to the command; text from data does not reach a terminal."""

import pytest

from metaheac_jax.errors import Busy, InputError, about, check_whole, printable


@pytest.mark.parametrize("kind", [Busy, InputError])
def test_what_an_error_is_about_does_not_change_its_kind(kind):
    with pytest.raises(InputError, match=r"^tea: wrong$") as caught, about("tea"):
        raise kind("wrong")
    assert type(caught.value) is kind


@pytest.mark.parametrize("value", [-1, 2**31, 1.0, True, "1", None])
def test_only_whole_numbers_in_range_pass(value):
    check_whole("--seed", 0, 0)
    check_whole("--seed", 2**31 - 1, 0)
    with pytest.raises(InputError, match="--seed: expected a whole number"):
        check_whole("--seed", value, 0)


def test_control_characters_are_replaced():
    text = "a\x1b[31m\x07\x9b\r\n\t\u202e\u2028\ud800b"
    assert printable(text) == "a\ufffd[31m" + 8 * "\ufffd" + "b"
    assert printable("thé 茶\u3000x [b] 🎉") == "thé 茶\u3000x [b] 🎉"
