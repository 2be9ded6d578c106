"""Networks: pure (init, apply) pairs over field vectors, independent of the table."""
