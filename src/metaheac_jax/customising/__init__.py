"""The online stage: models customised to new campaigns, and scores of a pool."""
