"""How metrics went from commit to commit: runs and asv's results in the order of the commits."""
