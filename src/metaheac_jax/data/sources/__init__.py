"""Readers of source files: each module builds a `Dataset` from one format."""
