"""Tells whether a commit has made anything worse: `metagrad gate`."""
