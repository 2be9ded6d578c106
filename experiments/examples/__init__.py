"""Short programs: scorers without this package, and meta-learning on other networks."""
