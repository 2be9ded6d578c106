"""The networks: pure (init, apply) pairs over field vectors, which do not know the table."""
