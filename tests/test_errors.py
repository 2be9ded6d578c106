"""Errors keep their kind on their way to the command."""

import pytest

from metaheac_jax.errors import Busy, InputError, Refusals, about


@pytest.mark.parametrize("kind", [Busy, InputError])
def test_what_an_error_is_about_does_not_change_its_kind(kind):
    with pytest.raises(InputError, match=r"^tea: wrong$") as caught, about("tea"):
        raise kind("wrong")
    assert type(caught.value) is kind


def test_what_is_busy_is_not_refused():
    """It ends the collection, since the same input may succeed later."""
    refusals = Refusals()
    with pytest.raises(Busy), refusals.collected("tea"):
        raise Busy("wait")
    with refusals.collected("golf"):
        raise InputError("wrong")
    assert refusals.reasons == [("golf", "wrong")]


def test_several_errors_are_busy_if_all_are():
    refusals = Refusals()
    refusals.check()
    refusals.add("tea", Busy("tea: wait"))
    refusals.add("golf", Busy("golf: wait"))
    with pytest.raises(Busy, match=r"^2 errors: tea: wait; golf: wait; try again$"):
        refusals.check("; try again")
    refusals.add("july", InputError("july: wrong"))
    with pytest.raises(InputError, match=r"^3 errors: ") as caught:
        refusals.check()
    assert type(caught.value) is InputError
