"""A comparison of methods over several runs: tuning, running, judging, reporting."""
