"""The paper's comparison; each command is run as ``python -m experiments.NAME``."""
