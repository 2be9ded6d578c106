"""All methods by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from metaheac_jax.errors import InputError
from metaheac_jax.methods.campaign_graph import hubble
from metaheac_jax.methods.ensemble import ensemble
from metaheac_jax.methods.fine_tuning import (
    alpha_zero,
    metaheac,
    mlp_one_stage,
    mlp_pretraining,
    without_hc,
    without_he,
    without_meta,
)
from metaheac_jax.methods.linear import logistic_regression
from metaheac_jax.methods.method import Method
from metaheac_jax.methods.multitask import mmoe, shared_bottom
from metaheac_jax.methods.seed_features import seed_aware, seed_aware_alpha_zero, seed_aware_mlp
from metaheac_jax.methods.shared_embeddings import mlp_embeddings
from metaheac_jax.methods.similarity import cosine
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.methods.towers import pinterest
from metaheac_jax.methods.trees import lightgbm_per_campaign, user_prior
from metaheac_jax.model import General
from metaheac_jax.settings import PAPER, Settings

#: Constructors of methods by name.
METHODS: dict[str, Callable[[Settings], Method]] = {
    "lr": logistic_regression,
    "mlp-one-stage": mlp_one_stage,
    "mlp-pretraining": mlp_pretraining,
    "without-meta": without_meta,
    "alpha-0": alpha_zero,
    "without-hc": without_hc,
    "without-he": without_he,
    "metaheac": metaheac,
    "mlp-embeddings": mlp_embeddings,
    "pinterest": pinterest,
    "hubble": hubble,
    "shared-bottom": shared_bottom,
    "mmoe": mmoe,
    "lightgbm": lightgbm_per_campaign,
    "cosine": cosine,
    "prior": user_prior,
    "solved-head": solved_head,
    "ensemble": ensemble,
    "seed-aware": seed_aware,
    "alpha-0-seeds": seed_aware_alpha_zero,
    "mlp-seeds": seed_aware_mlp,
    "lr-lengths": partial(logistic_regression, lengths=True),
    "mlp-pretraining-lengths": partial(mlp_pretraining, lengths=True),
    "without-meta-lengths": partial(without_meta, lengths=True),
    "alpha-0-lengths": partial(alpha_zero, lengths=True),
    "metaheac-lengths": partial(metaheac, lengths=True),
}


def method_of(general: General) -> Method:
    """The method that trained a general model, with the settings of that training."""
    return replace(method_named(general.method), settings=general.settings)


def method_named(name: str, settings: Settings = PAPER) -> Method:
    """The method with this name.

    A method may have its own values for some settings, which replace those given here. Its
    constructor says which they are, and `Method.with_settings` changes them.

    Raises:
      InputError: no method has this name; the message lists all names.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}; choose from {', '.join(METHODS)}")
    return METHODS[name](settings)
