"""Compiled programs of a kind of problem, whose size does not depend on the depth."""
