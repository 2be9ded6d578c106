"""Readers of source files: the modules of each format, and shared helpers."""
