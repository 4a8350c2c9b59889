"""Metrics from commit to commit: runs and kernel times in the order of the commits."""

KEY = ("machine", "fingerprint", "cell", "metric")
"""Columns that identify a series, which has a value for each commit."""
