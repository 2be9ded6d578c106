"""Training: the meta-step, losses, row-local steps, the offline loop, checkpoints, devices."""
