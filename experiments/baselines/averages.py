"""Means of several models' log-odds: trainings of one method, or different methods.

The first member's share is chosen on held-out campaigns where members differ; all other shares are
equal. They are not in the paper.

Axes: P users, E members.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from metaheac_jax.data.campaign import Campaign
from metaheac_jax.methods import Config, Method, Run, Trained, configured, register
from metaheac_jax.methods.held_out_campaigns import halve, judge_state
from metaheac_jax.model import FunctionScorer, Scorer, State, on_device

_SHARES = np.linspace(0, 1, 11)  # of the first member that are tried


class Average(Method[Config]):
    """The weighted mean of members' log-odds; members with the same name have other seeds.

    Attributes:
      members: names of the members' methods.
    """

    members: ClassVar[tuple[str, ...]]
    default = Config()

    @property
    def min_campaigns(self) -> int:
        """The number that the members need."""
        return max(configured(name).min_campaigns for name in self.members)

    @property
    def holds_out(self) -> bool:
        """Whether members hold out campaigns, or shares are chosen on them."""
        return True

    def fit(self, run: Run) -> Trained:
        """Trains the members, and chooses the shares."""
        halves = [halve(run.dataset, int(c), run.seed) for c in run.held_out]
        states = dict[str, State]()
        for number, method in enumerate(map(configured, self.members)):
            folder = run.directory and run.directory / str(number)
            label = f"{run.label}: {method.label} {number + 1}"
            own = replace(run, directory=folder, label=label, seed=run.seed + number)
            judge = partial(judge_state, method.customise, own, halves)
            own = replace(own, judge=judge if halves and method.holds_out else None)
            states[str(number)] = on_device(method.fit(own).state)
        equal = np.full(len(states), 1 / len(states))
        if run.judge is None or len({*self.members}) == 1:
            return Trained({"members": states, "shares": equal})
        tried = [{"members": states, "shares": _shares(own, len(states))} for own in _SHARES]
        judged = [run.judge(state) for state in tried]
        best = int(np.argmax([quality.auc for quality in judged]))
        return Trained(tried[best], np.array([[0, *judged[best]]]))

    def customise(self, run: Run, state: State, campaigns: Sequence[Campaign]) -> list[Scorer]:
        """Customises each member to all campaigns."""
        shares = np.asarray(state["shares"])
        models = [
            configured(name).customise(run, state["members"][str(number)], campaigns)
            for number, name in enumerate(self.members)
        ]

        def mean(own: Sequence[Scorer]) -> Scorer:
            return FunctionScorer(lambda users: shares @ np.stack([score(users) for score in own]))

        return list(map(mean, zip(*models, strict=True)))


def _shares(first: float, count: int) -> np.ndarray:
    """(E,) shares by that of the first member."""
    return np.append(first, np.full(count - 1, (1 - first) / (count - 1)))


def _average(name: str, label: str, *members: str) -> None:
    """Registers a mean of members."""
    own: dict[str, Any] = {"name": name, "label": label, "members": members}
    register(type(f"Average of {', '.join(members)}", (Average,), own))


_MLP = "mlp-pretraining-lengths"
_average("two-solved-heads", "Two solved heads", "solved-head", "solved-head")
_average("two-mlps", "Two MLPs", _MLP, _MLP)
_average("three-mlps-and-lr", "Three MLPs and LR", "lr-lengths", _MLP, _MLP, _MLP)
_average("prior-and-mlp", "Learned prior and MLP", "learned-prior", _MLP)
_average("prior-and-trees", "Learned prior and pooled trees", "learned-prior", "pooled-trees")
