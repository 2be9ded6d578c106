"""Logistic regressions: dense ones by Newton's method, and a sparse one."""
