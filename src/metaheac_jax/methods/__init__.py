"""Methods: each trains a general model on many campaigns and customises it to new ones."""

from metaheac_jax.methods.config import Config
from metaheac_jax.methods.ensembling import EnsembleConfig, EnsembleMethod
from metaheac_jax.methods.fine_tuning import (
    OFFICIAL,
    PAPER,
    AlphaZero,
    MetaHeacConfig,
    MetaHeacMethod,
    PretrainedMLP,
    WithoutMeta,
)
from metaheac_jax.methods.general_models import customise, fit, judge
from metaheac_jax.methods.logistic_regression import LogisticRegression
from metaheac_jax.methods.method import Method, Run, Trained
from metaheac_jax.methods.registry import METHODS, configured, method_of, register
from metaheac_jax.methods.solved_heads import SolvedHeadConfig, SolvedHeadMethod

__all__ = [
    "METHODS",
    "OFFICIAL",
    "PAPER",
    "AlphaZero",
    "Config",
    "EnsembleConfig",
    "EnsembleMethod",
    "LogisticRegression",
    "MetaHeacConfig",
    "MetaHeacMethod",
    "Method",
    "PretrainedMLP",
    "Run",
    "SolvedHeadConfig",
    "SolvedHeadMethod",
    "Trained",
    "WithoutMeta",
    "configured",
    "customise",
    "fit",
    "judge",
    "method_of",
    "register",
]
