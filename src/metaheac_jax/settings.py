"""Named settings: those that the paper prints, and those of the authors' program.

If a source does not state a value, a comment says where the value comes from.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from metaheac_jax.errors import InputError, check_whole

#: Reduction of a loss over its minibatch, and of the meta-loss over campaigns.
Reduction = Literal["sum", "mean"]
#: How experts and critics are mixed: by plain weighted sums, or with the factors 1/n and 1/m that
#: the paper prints.
Mixture = Literal["sum", "mean"]
#: Which weights the online stage adapts: "all", the whole network and the examples' table rows (the
#: paper); or "heads", the layers after the first, so that campaigns share that layer and the table.
Adapts = Literal["all", "heads"]


@dataclass(frozen=True)
class Settings:
    """All settings of a method. Library functions take plain arguments instead.

    Attributes:
      width: k, the width of an embedding.
      num_experts: n, the number of experts.
      num_critics: m, the number of critics.
      mixture: see `Mixture`.
      table_scale: standard deviation of the table's initial values.
      reduction: see `Reduction`.
      inner_learning_rate: alpha, for a loss with this reduction.
      outer_learning_rate: beta, the learning rate of the offline Adam.
      campaigns_per_step: C, the number of campaigns in a meta-step.
      batch_size: B, the number of examples in a support set, a query set and an online minibatch.
      disjoint: whether support and query share no example.
      weight_decay: weight decay of the offline AdamW on the network; the table has none.
      offline_epochs: epochs of ceil(training examples / B) steps each; with patience, the maximum.
        A step draws up to 2 B C examples, so an epoch draws an example about 2 C times.
      offline_patience: number of judgements on held-out training campaigns, four per epoch, without
        a better one before the offline stage stops and keeps the best state; it also takes 800
        steps without a better one. None runs all epochs on all training campaigns.
      online_learning_rate: learning rate of the online Adam.
      online_epochs: passes over a campaign's examples; with patience, the maximum.
      penalty: L2 penalty of methods that fit a linear model to a campaign, on the model's weights;
        for a solved head, on the weights of values.
      online_patience: number of epochs without a lower held-out loss before the online stage stops.
        None runs all epochs.
      online_adapts: see `Adapts`; "heads" is for methods whose network can be split there.
      value_dropout: probability that a value of a user is left out of an offline step. Training
        sees each example several times, and could otherwise recognise it by its rare values.

    Raises:
      InputError: a count, a rate, the scale or a choice is out of range.
    """

    width: int
    num_experts: int
    num_critics: int
    mixture: Mixture
    table_scale: float
    reduction: Reduction
    inner_learning_rate: float
    outer_learning_rate: float
    campaigns_per_step: int
    batch_size: int
    disjoint: bool
    weight_decay: float
    offline_epochs: int
    offline_patience: int | None
    online_learning_rate: float
    online_epochs: int
    online_patience: int | None
    online_adapts: Adapts
    penalty: float
    value_dropout: float = 0.0  # models that were saved without this setting have this value

    def __post_init__(self) -> None:
        counts = ("width", "num_experts", "num_critics", "campaigns_per_step", "batch_size")
        for name in counts:
            check_whole(f"settings: {name}", getattr(self, name), 1)
        for name in ("offline_epochs", "online_epochs"):
            check_whole(f"settings: {name}", getattr(self, name), 0)
        for name in ("offline_patience", "online_patience"):
            if getattr(self, name) is not None:
                check_whole(f"settings: {name}", getattr(self, name), 1)
        rates = ("inner_learning_rate", "outer_learning_rate", "online_learning_rate")
        for name in ("table_scale", "weight_decay", "penalty", "value_dropout", *rates):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 <= value < math.inf:
                raise InputError(f"settings: {name}: expected a number of 0 or more, got {value!r}")
        if not self.value_dropout < 1:
            raise InputError(
                f"settings: value_dropout: expected a number below 1, got {self.value_dropout!r}"
            )
        if not isinstance(self.disjoint, bool):
            raise InputError(f"settings: disjoint: expected true or false, got {self.disjoint!r}")
        for name in ("mixture", "reduction"):
            if getattr(self, name) not in ("sum", "mean"):
                value = getattr(self, name)
                raise InputError(f"settings: {name}: expected 'sum' or 'mean', got {value!r}")
        if self.online_adapts not in ("all", "heads"):
            value = self.online_adapts
            raise InputError(f"settings: online_adapts: expected 'all' or 'heads', got {value!r}")


#: Settings of the authors' program.
OFFICIAL = Settings(
    width=64,
    num_experts=8,
    num_critics=5,
    mixture="sum",
    table_scale=1.0,
    reduction="mean",
    inner_learning_rate=0.0002,
    outer_learning_rate=0.001,
    campaigns_per_step=5,
    batch_size=512,
    disjoint=False,
    weight_decay=0.0,
    offline_epochs=1,
    offline_patience=None,
    online_learning_rate=0.001,
    online_epochs=2,
    online_patience=None,
    online_adapts="all",
    penalty=30.0,  # not the program's; see below
)

#: Settings of the paper's section 4.1.
PAPER = Settings(
    width=16,
    num_experts=8,  # the paper tunes n and m in [3, 10]; these are the program's
    num_critics=5,
    mixture="sum",  # with softmax weights the printed 1/m would bound p by 1/m
    table_scale=1.0,  # not stated; the program's
    reduction="sum",
    inner_learning_rate=0.001,
    outer_learning_rate=0.001,  # the paper tunes it in {.001, .005, .01, .02, .1}; the program's
    campaigns_per_step=5,  # not stated; the program's
    batch_size=512,
    disjoint=True,
    weight_decay=0.0,  # not stated
    offline_epochs=100,  # not stated; training ends when held-out campaigns no longer improve
    offline_patience=8,  # two epochs
    online_learning_rate=0.001,  # "until the loss converges"; the program's rate
    online_epochs=10,
    online_patience=3,
    online_adapts="all",
    penalty=30.0,  # not stated; chosen for LR on held-out campaigns of a simulated world
)

SETTINGS = {"paper": PAPER, "official": OFFICIAL}
