"""Configs: the settings of a method, with their defaults."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields, replace
from types import UnionType
from typing import Any, Literal, Self, get_args, get_origin, get_type_hints

from metaheac_jax.errors import InputError, check_whole


def within(default: Any, **limits: float) -> Any:
    """A setting with limits: ``least`` (by default 1 for whole numbers), ``above`` or ``below``."""
    return field(default=default, metadata=limits)


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
        hints = get_type_hints(type(self))
        for own in fields(self):
            _check(own, hints[own.name], getattr(self, own.name))

    @property
    def parts(self) -> dict[str, Config]:
        """The configs of the method's parts, by name."""
        own = {part.name: getattr(self, part.name) for part in fields(self)}
        return {name: value for name, value in own.items() if isinstance(value, Config)}

    def named(self) -> dict[str, Any]:
        """Names all settings, those of parts with a dot."""
        found = {}
        for name in (own.name for own in fields(self)):
            value = getattr(self, name)
            if isinstance(value, Config):
                found |= {f"{name}.{inner}": own for inner, own in value.named().items()}
            else:
                found[name] = value
        return found

    def __contains__(self, name: str) -> bool:
        return any(name in (own, own.rpartition(".")[2]) for own in self.named())

    def __getitem__(self, name: str) -> Any:
        """A setting by name; that of the first part that has it, if the name has no part."""
        return next(v for k, v in self.named().items() if name in (k, k.rpartition(".")[2]))

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
        own = {name: value for name, value in changes.items() if hasattr(self, name)}
        for part, config in self.parts.items():
            inside = {name: value for name, value in changes.items() if name in config}
            for name, value in changes.items():
                if name.startswith(f"{part}."):
                    inside[name.removeprefix(f"{part}.")] = value
            own[part] = config.changed(inside)
        return replace(self, **own)

    def plain(self) -> dict[str, Any]:
        """Makes plain data for JSON; see `of_plain`."""
        return asdict(self)

    @classmethod
    def of_plain(cls, values: Mapping[str, Any]) -> Self:
        """Makes the config that `plain` has described.

        Raises:
          InputError: there are other settings than this class has.
        """
        hints = {own.name: get_type_hints(cls)[own.name] for own in fields(cls)}
        if set(values) != set(hints):
            differ = ", ".join(sorted(set(values) ^ set(hints)))
            raise InputError(f"settings: {differ}: in the model or in its method, not in both")
        return cls(
            **{
                name: hints[name].of_plain(value) if isinstance(value, Mapping) else value
                for name, value in values.items()
            }
        )


def _check(own: Field[Any], hint: Any, value: Any) -> None:
    """Refuses a value that is not of the field's type, or out of its limits."""
    kinds, what = get_args(hint) if isinstance(hint, UnionType) else (hint,), own.metadata
    if value is None and type(None) in kinds:
        return
    if get_origin(hint) is Literal:
        choices = get_args(hint)
        good, expected = value in choices, " or ".join(map(repr, choices))
    elif bool in kinds:
        good, expected = isinstance(value, bool), "true or false"
    elif int in kinds:
        check_whole(f"settings: {own.name}", value, int(what.get("least", 1)))
        return
    elif hint is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        above, below = what.get("above"), what.get("below", math.inf)
        good = number and 0 <= value < below and (above is None or value > above)
        expected = "a number " + ("of 0 or more" if above is None else f"above {above}")
        expected += f" and below {below}" if "below" in what else ""
    else:
        good, expected = isinstance(value, kinds), hint.__name__
    if not good:
        raise InputError(f"settings: {own.name}: expected {expected}, got {value!r}")


@dataclass(frozen=True)
class GradientConfig(Config):
    """Settings of a method whose offline stage takes gradient steps.

    Attributes:
      width: k, the width of an embedding.
      table_scale: standard deviation of the table's initial values.
      outer_learning_rate: beta, the learning rate of the offline Adam.
      campaigns_per_step: C, the number of campaigns in a meta-step.
      batch_size: B, the number of examples in a support set, a query set and an online minibatch.
      weight_decay: weight decay of the offline AdamW on the network; the table has none.
      value_dropout: probability that a value of a user is left out of an offline step. Training
        sees each example several times, and could otherwise recognise it by its rare values.
      offline_epochs: epochs of ceil(training examples / B) steps each; with patience, the maximum.
        A step draws up to 2 B C examples, so an epoch draws an example about 2 C times.
      offline_patience: number of judgements on held-out training campaigns, four per epoch, without
        a better one before the offline stage stops and keeps the best state; it also takes 800
        steps without a better one. None runs all epochs on all training campaigns.
    """

    width: int = 16
    table_scale: float = 1.0  # not stated in the paper; that of the authors' program
    outer_learning_rate: float = 0.001  # the paper tunes it in [.001, .1]; the program's
    campaigns_per_step: int = 5  # not stated; the program's
    batch_size: int = 512
    weight_decay: float = 0.0  # not stated
    value_dropout: float = within(0.0, below=1)
    offline_epochs: int = within(100, least=0)  # not stated; training ends by its patience
    offline_patience: int | None = 8  # two epochs
