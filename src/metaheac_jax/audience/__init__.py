"""The system around the model: the expanded audience, and how good it is."""
