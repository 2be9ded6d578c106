"""Methods: each trains a general model on many campaigns and customises it to new ones."""

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
from metaheac_jax.methods.registry import METHODS, method_named, method_of
from metaheac_jax.methods.seed_features import seed_aware, seed_aware_alpha_zero, seed_aware_mlp
from metaheac_jax.methods.shared_embeddings import mlp_embeddings
from metaheac_jax.methods.similarity import cosine
from metaheac_jax.methods.solved_heads import solved_head
from metaheac_jax.methods.towers import pinterest
from metaheac_jax.methods.trees import lightgbm_per_campaign, user_prior

__all__ = [
    "METHODS",
    "Method",
    "alpha_zero",
    "cosine",
    "ensemble",
    "hubble",
    "lightgbm_per_campaign",
    "logistic_regression",
    "metaheac",
    "method_named",
    "method_of",
    "mlp_embeddings",
    "mlp_one_stage",
    "mlp_pretraining",
    "mmoe",
    "pinterest",
    "seed_aware",
    "seed_aware_alpha_zero",
    "seed_aware_mlp",
    "shared_bottom",
    "solved_head",
    "user_prior",
    "without_hc",
    "without_he",
    "without_meta",
]
