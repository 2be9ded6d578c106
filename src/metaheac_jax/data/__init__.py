"""From files to a Dataset, and from a Dataset to batches."""
