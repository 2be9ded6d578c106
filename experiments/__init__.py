"""The commands: each module is one, run as ``python -m experiments.NAME``."""
