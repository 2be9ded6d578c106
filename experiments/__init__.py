"""The paper's comparison and other experiments; run each as ``python -m experiments.NAME``."""
