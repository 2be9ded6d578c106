"""Configs: the settings of a method, with their defaults."""

from __future__ import annotations

import difflib
import math
import typing
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, Literal, Self, TypedDict, TypeVar, Unpack

from flax.traverse_util import flatten_dict

from metaheac_jax.errors import InputError, check_whole

Value = TypeVar("Value")


class About(TypedDict, total=False):
    """What a setting says of itself beside its type and its default, which is the paper's value.

    Attributes:
      least: the minimum of a whole number, by default 1.
      above: what a number is greater than; without it, a number is 0 or more.
      below: what a number is less than.
      shapes: whether a network's shapes or outputs depend on it, so that a trained model keeps it.
      resumable: whether another value may be given when a training resumes from checkpoints.
      official: the value in the authors' program, if that is another.
    """

    least: int
    above: float
    below: float
    shapes: bool
    resumable: bool
    official: Any


def setting(default: Value, **about: Unpack[About]) -> Value:
    """Declares a field of a `Config`; see `About`."""
    return field(default=default, metadata=about)


@dataclass(frozen=True)
class Config:
    """Settings of a method; its subclasses have them as fields with defaults.

    A field may be the config of a part of the method. Settings of a part have names with a dot,
    such as ``head.penalty``. Without the part, a name stands for the setting of every part that has
    it.

    Raises:
      InputError: a count, a rate or a choice is out of range.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for attribute in fields(self):
            _check(attribute, hints[attribute.name], getattr(self, attribute.name))

    def named(self, mark: str | None = None) -> dict[str, Any]:
        """Names all settings, or those that are marked ``shapes`` or ``resumable``.

        Settings of parts have names with a dot.
        """
        found = dict[str, Any]()
        for attribute in fields(self):
            value = getattr(self, attribute.name)
            if isinstance(value, Config):
                found |= {
                    f"{attribute.name}.{name}": inner for name, inner in value.named(mark).items()
                }
            elif mark is None or attribute.metadata.get(mark):
                found[attribute.name] = value
        return found

    def __contains__(self, name: str) -> bool:
        return any(name in (known, known.rpartition(".")[2]) for known in self.named())

    def changed(self, changes: Mapping[str, Any]) -> Self:
        """Changes some settings, by name, in a copy.

        Raises:
          InputError: no setting has a name (close ones are listed), or a value is out of range.
        """
        for name in changes:
            if name not in self:
                names = [*self.named()]
                near = difflib.get_close_matches(name, names, n=3, cutoff=0.5) or names
                raise InputError(f"settings: no {name!r}; did you mean {', '.join(near)}?")
        given = {name: value for name, value in changes.items() if hasattr(self, name)}
        for part, config in vars(self).items():
            if isinstance(config, Config):
                inside = {n: value for n, value in changes.items() if n in config}
                start = f"{part}."
                inside |= {n[len(start) :]: changes[n] for n in changes if n.startswith(start)}
                given[part] = config.changed(inside)
        return replace(self, **given)

    def official(self) -> Self:
        """Gives the settings of the authors' program to a copy.

        A setting keeps a value that is not the default of its field.
        """
        changes = dict[str, Any]()
        for attribute in fields(self):
            value = getattr(self, attribute.name)
            if isinstance(value, Config):
                changes[attribute.name] = value.official()
            elif value == attribute.default:
                changes[attribute.name] = attribute.metadata.get("official", value)
        return replace(self, **changes)

    def plain(self) -> dict[str, Any]:
        """Makes plain data for JSON; see `of_plain`."""
        return asdict(self)

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Self:
        """Makes the config that `plain` has described.

        Raises:
          InputError: there are other settings than this class has.
        """
        flat = flatten_dict(dict(values), sep=".")
        if differ := flat.keys() ^ cls().named().keys():
            told = ", ".join(sorted(differ))
            raise InputError(f"settings: {told}: in the model or in its method, not in both")
        return cls().changed(flat)


def _check(attribute: Field[Any], hint: Any, value: Any) -> None:
    """Refuses a value that is not of the field's type, or out of its limits."""
    kinds, what = (
        typing.get_args(hint) if isinstance(hint, UnionType) else (hint,),
        attribute.metadata,
    )
    if value is None and type(None) in kinds:
        return
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        good, expected = value in choices, " or ".join(map(repr, choices))
    elif bool in kinds:
        good, expected = isinstance(value, bool), "true or false"
    elif int in kinds:
        check_whole(f"settings: {attribute.name}", value, int(what.get("least", 1)))
        return
    elif hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        above, below = what.get("above"), what.get("below", math.inf)
        good = number and 0 <= value < below and (above is None or value > above)
        expected = "a number " + ("of 0 or more" if above is None else f"above {above}")
        expected += "" if below == math.inf else f" and below {below}"
    else:
        good, expected = isinstance(value, kinds), hint.__name__
    if not good:
        raise InputError(f"settings: {attribute.name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class GradientConfig(Config):
    """Settings of a method whose offline stage takes gradient steps."""

    width: int = setting(16, shapes=True, official=64)
    """k, the width of an embedding."""
    table_scale: float = 1.0
    """Standard deviation of the table's initial values; that of the authors' program."""
    outer_learning_rate: float = 0.001
    """beta, the learning rate of the offline Adam; the paper tunes it in [.001, .1]."""
    campaigns_per_step: int = 5
    """C, the number of campaigns in a meta-step; that of the authors' program."""
    batch_size: int = 512
    """B, the number of examples in a support set, a query set and an online minibatch."""
    weight_decay: float = 0.0
    """Weight decay of the offline AdamW on the network; the table has none. Not in the paper."""
    value_dropout: float = setting(0.0, below=1)
    """Probability that a value of a user is left out of an offline step. Training sees each example
    several times, and could otherwise recognise it by its rare values. Not in the paper."""
    offline_epochs: int = setting(100, least=0, resumable=True, official=1)
    """Epochs of ceil(training examples / B) steps each; with patience, the maximum. A step draws up
    to 2 B C examples, so an epoch draws an example about 2 C times."""
    offline_patience: int | None = setting(8, resumable=True, official=None)
    """Number of judgements on held-out training campaigns, four per epoch, without a better one
    before the offline stage stops and keeps the best state; it also takes 800 steps without a
    better one. None runs all epochs on all training campaigns."""
    list_lengths: bool = setting(False, shapes=True)
    """Whether list lengths are user fields too; see `data.list_lengths`."""
