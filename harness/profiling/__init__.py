"""Profiles of one estimate: the time of its parts, and the tensors in its memory.

`record` makes them, in a worker; `folder` writes them to a store and reads them back.
"""

FOLDER = "profiles"
"""The folder of a store that has a folder for each profile."""
