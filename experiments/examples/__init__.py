"""Short programs: meta-learning on other people's networks."""
