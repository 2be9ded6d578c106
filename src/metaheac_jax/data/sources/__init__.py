"""Readers of source files: one or more modules per format, and shared helpers."""
