"""Programs of a few lines: a scorer without this package, and meta-learning on other networks."""
