"""The paper's comparison and other experiments; run each as ``python -m experiments.NAME``."""

import os

# As `metaheac_jax.cli.terminal` does, here before numpy and jax are imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
