"""Methods: each trains a general model on many campaigns and customises it to new ones."""

from metaheac_jax.methods.config import Config, setting
from metaheac_jax.methods.ensemble import EnsembleConfig, EnsembleMethod
from metaheac_jax.methods.fitting import configured, customise, fit
from metaheac_jax.methods.learned_prior import LearnedPrior, LearnedPriorConfig
from metaheac_jax.methods.logistic_regression import LogisticRegression
from metaheac_jax.methods.metaheac import (
    OFFICIAL,
    PAPER,
    MetaHeacConfig,
    MetaHeacMethod,
    WithoutMeta,
)
from metaheac_jax.methods.method import (
    METHODS,
    Method,
    Offline,
    Online,
    Trained,
    method_of,
    register,
)
from metaheac_jax.methods.pretraining import FineTuningConfig, PretrainedMethod, PretrainedMLP
from metaheac_jax.methods.solved_head import SolvedHeadConfig, SolvedHeadMethod

__all__ = [
    "METHODS",
    "OFFICIAL",
    "PAPER",
    "Config",
    "EnsembleConfig",
    "EnsembleMethod",
    "FineTuningConfig",
    "LearnedPrior",
    "LearnedPriorConfig",
    "LogisticRegression",
    "MetaHeacConfig",
    "MetaHeacMethod",
    "Method",
    "Offline",
    "Online",
    "PretrainedMLP",
    "PretrainedMethod",
    "SolvedHeadConfig",
    "SolvedHeadMethod",
    "Trained",
    "WithoutMeta",
    "configured",
    "customise",
    "fit",
    "method_of",
    "register",
    "setting",
]
