"""What adapting is worth: methods, each of which differs from another in one thing only.

All have list lengths. All but those with a solved head have MetaHeac's network and the same
settings before tuning. ``--methods adapting`` stands for all of them.

Axes: N campaign fields, k embedding width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from metaheac_jax.methods import METHODS, Method
from metaheac_jax.methods import method_named as library_method
from metaheac_jax.methods.fine_tuning import metaheac, metaheac_network
from metaheac_jax.methods.list_lengths import with_list_lengths
from metaheac_jax.methods.offline import train_on_campaigns, untrained
from metaheac_jax.methods.seed_features import seed_aware
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.methods.stages import Run, Trained
from metaheac_jax.model import State, Weights
from metaheac_jax.settings import OFFICIAL, PAPER, Settings
from metaheac_jax.table.rows import select_rows
from metaheac_jax.training.losses import build_loss, cross_entropy, masked
from metaheac_jax.training.meta import MetaGradient, build_meta_gradient
from metaheac_jax.training.step import Gradient

#: Builds the gradient of a run's meta-loss.
BuildGradient = Callable[[Run], Gradient[...]]


class Variant(NamedTuple):
    """A method, and how it differs from another one.

    Attributes:
      name: name of the method.
      base: name of the method that it differs from; None without one.
      what: the difference.
      build: builds the method; None for a method of the library.
    """

    name: str
    base: str | None
    what: str
    build: Callable[[Settings], Method] | None = None


def method_named(name: str, settings: Settings = PAPER) -> Method:
    """A method of the library or of this module.

    Raises:
      InputError: no method has this name.
    """
    build = next((variant.build for variant in VARIANTS if variant.name == name), None)
    return library_method(name, settings) if build is None else build(settings)


def method_names() -> list[str]:
    """Names of all methods, those of the library first."""
    return list(dict.fromkeys([*METHODS, *(variant.name for variant in VARIANTS)]))


#: Controls, and for each the method that it is compared with, whose settings it takes.
_CONTROL_OF = {
    "solved-constant": "solved-head",
    "alpha-0-seeds": "seed-aware",
    "mlp-seeds": "seed-aware",
}


def with_bases(name: str) -> list[str]:
    """A method, then the methods whose settings it takes if it has none of its own, in order.

    A control takes the settings of its method, and other methods take those of their base.
    """
    if name in _CONTROL_OF:
        return [name, _CONTROL_OF[name]]
    base = next((variant.base for variant in VARIANTS if variant.name == name), None)
    return [name] if base is None else [name, *with_bases(base)]


# The methods ------------------------------------------------------------------------------------


def program_step(settings: Settings) -> Method:
    """The inner step of the authors' program: its alpha, on the mean loss."""
    rate = OFFICIAL.inner_learning_rate
    method = metaheac(replace(settings, reduction="mean", inner_learning_rate=rate), lengths=True)
    # The rate defines this method, so it is not tuned.
    tuned = tuple(name for name in method.tuned if name != "inner_learning_rate")
    label = "task batches + the program's inner step"
    return replace(method, name="program-step", label=label, tuned=tuned)


def learned_rates(settings: Settings, *, steps: int) -> Method:
    """Inner steps at a learned rate per leaf (Meta-SGD, Li et al. 2017), from the paper's alpha."""
    many = f"{steps} inner steps" if steps > 1 else "an inner step"
    label = f"task batches + {many} at learned rates"

    def train(run: Run) -> Trained:
        weights = untrained(run, metaheac_network(run.settings))
        start = jnp.log(run.settings.inner_learning_rate)
        # One array for each, since a step reuses their memory.
        rates = jax.tree.map(lambda _: jnp.copy(start), {"network": weights.network, "table": 0})
        network = {"inside": weights.network, "log_rates": rates}
        gradient = learned_rates_gradient(run, steps)
        weights = Weights(network, weights.table)
        return train_on_campaigns(run, weights, gradient, finish=_without_rates)

    name = "learned-rates" if steps == 1 else f"learned-rates-{steps}"
    method = metaheac(settings)
    # Weight decay would pull the logarithms of the rates towards zero.
    tuned = tuple(name for name in method.tuned if name != "weight_decay")
    method = replace(method, name=name, label=label, train=train, tuned=tuned)
    method = replace(method.with_settings(weight_decay=0.0), work=(6 * steps, 3))
    return with_list_lengths(method)


def learned_rates_gradient(run: Run, steps: int) -> MetaGradient:
    """The gradient of `learned_rates`; its network parameters are ``{"inside", "log_rates"}``."""
    reduction = run.settings.reduction
    inside = build_loss(metaheac_network(run.settings), run.dataset.layout, reduction=reduction)

    def loss(params: Any, batch: Any) -> Array:
        return inside(params | {"network": params["network"]["inside"]}, batch)

    def rates(params: Any) -> Any:
        of = jax.tree.map(jnp.exp, params["network"]["log_rates"])
        return {"network": {"inside": of["network"], "log_rates": 0.0}, "table": of["table"]}

    return build_meta_gradient(
        loss,
        inner_learning_rate=rates,
        inner_steps=steps,
        adapt={"network": {"inside": True, "log_rates": False}, "table": True},
        reduction=reduction,
        select=select_rows,
    )


def _without_rates(weights: Weights) -> State:
    return Weights(weights.network["inside"], weights.table)._asdict()


def adapt_heads(settings: Settings) -> Method:
    """The paper's inner step on critics and gates only."""
    return _adapting_a_part(
        settings,
        "adapt-heads",
        "task batches + the paper's inner step on heads and gates",
        heads_gradient,
    )


def adapt_campaign(settings: Settings) -> Method:
    """The paper's inner step on the campaign's own table rows only."""
    return _adapting_a_part(
        settings,
        "adapt-campaign",
        "task batches + the paper's inner step on campaign rows",
        rows_gradient,
    )


def _adapting_a_part(settings: Settings, name: str, label: str, build: BuildGradient) -> Method:
    def train(run: Run) -> Trained:
        weights = untrained(run, metaheac_network(run.settings))
        return train_on_campaigns(run, weights, build(run))

    method = replace(metaheac(settings), name=name, label=label, train=train)
    return with_list_lengths(method)


def heads_gradient(run: Run) -> MetaGradient:
    """The gradient through inner steps on critics and gates."""
    settings = run.settings

    def adapted(params: Any) -> Any:
        parts = params["network"]["params"]
        return {"network": {"params": {part: part != "expert" for part in parts}}, "table": False}

    return build_meta_gradient(
        build_loss(metaheac_network(settings), run.dataset.layout, reduction=settings.reduction),
        inner_learning_rate=settings.inner_learning_rate,
        adapt=adapted,
        reduction=settings.reduction,
        select=select_rows,
    )


def rows_gradient(run: Run) -> Gradient[...]:
    """The gradient through inner steps on the campaign's rows.

    A step moves an offset (N, k), which is added to these rows and starts at 0. This is equivalent
    to a step on the rows.
    """
    settings, layout = run.settings, run.dataset.layout
    network = metaheac_network(settings)

    def loss(params: Any, batch: Any) -> Array:
        user, campaign = layout.inputs(params["table"], batch.ids)
        output: Any = network.apply(params["network"], user, campaign + params["offset"])
        values = cross_entropy(output.log_p, output.log_not_p, batch.label)
        return masked(values, batch.weight, settings.reduction)

    meta_gradient = build_meta_gradient(
        loss,
        inner_learning_rate=settings.inner_learning_rate,
        adapt={"network": False, "table": False, "offset": True},
        reduction=settings.reduction,
        select=select_rows,
    )

    def gradient(params: Any, support: Any, query: Any, part: Any) -> tuple[Any, Any]:
        offset = jnp.zeros((layout.num_campaign_fields, params["table"].shape[1]))
        grads, info = meta_gradient(params | {"offset": offset}, support, query, part)
        return {name: grads[name] for name in params}, info

    return gradient


def seed_features_method(settings: Settings, *, step: bool) -> Method:
    """Seed features, without an inner step or with the paper's; the rest is as in other methods."""
    label = "task batches + seed features" + (" + the paper's inner step" if step else "")
    method = seed_aware(settings).with_settings(
        table_scale=settings.table_scale,
        reduction=settings.reduction,
        inner_learning_rate=settings.inner_learning_rate if step else 0.0,
    )
    name = "seeds-step" if step else "seeds"
    tuned = tuple(name for name in method.tuned if step or name != "inner_learning_rate")
    return replace(method, name=name, label=label, tuned=tuned)


def solved_constant(settings: Settings) -> Method:
    """The solved head, with a derivative that does not go through the solution."""
    label = "solved head, as a constant of the derivative"
    return replace(solved_head(settings, first_order=True), name="solved-constant", label=label)


VARIANTS = (
    Variant("without-meta-lengths", None, "plain batches"),
    Variant("alpha-0-lengths", "without-meta-lengths", "task batches"),
    Variant("metaheac-lengths", "alpha-0-lengths", "the paper's inner step"),
    Variant("program-step", "alpha-0-lengths", "the program's inner step", program_step),
    Variant(
        "learned-rates", "metaheac-lengths", "learned rates", lambda s: learned_rates(s, steps=1)
    ),
    Variant("learned-rates-5", "learned-rates", "five steps", lambda s: learned_rates(s, steps=5)),
    Variant("adapt-heads", "metaheac-lengths", "on heads and gates alone", adapt_heads),
    Variant("adapt-campaign", "metaheac-lengths", "on campaign rows alone", adapt_campaign),
    Variant(
        "seeds", "alpha-0-lengths", "seed features", lambda s: seed_features_method(s, step=False)
    ),
    Variant(
        "seeds-step",
        "seeds",
        "the paper's inner step",
        lambda s: seed_features_method(s, step=True),
    ),
    Variant("solved-constant", None, "the head is solved", solved_constant),
    Variant("solved-head", "solved-constant", "the derivative goes through the solution"),
    Variant("ensemble", "without-meta-lengths", "the weighted mean with other members"),
)


def with_group(chosen: Sequence[str]) -> list[str]:
    """Names of methods, where ``adapting`` is replaced by the methods that it stands for."""
    own = [variant.name for variant in VARIANTS]
    return [one for name in chosen for one in (own if name == "adapting" else [name])]
