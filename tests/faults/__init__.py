"""Trials of the README's promises: kills, damages, full disks, mutated files, options.

``python -m tests.faults`` runs every trial and prints a table; the suite runs a sample of each.
"""
