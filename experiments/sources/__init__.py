"""Data of the experiments: each source as a `Dataset`."""
