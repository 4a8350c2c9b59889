"""Check whether a commit makes anything worse: `metagrad gate`."""
