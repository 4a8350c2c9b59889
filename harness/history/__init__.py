"""How metrics went from commit to commit: runs and asv's results in the order of the commits."""

KEY = ("machine", "fingerprint", "cell", "metric")
"""What makes a series: its values are those of the commits."""
