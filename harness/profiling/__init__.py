"""Profiles of one estimate: where its time goes, and what its memory holds.

`record` makes them, in a worker; `folder` says where they are and reads them back.
"""

FOLDER = "profiles"
"""Where a store keeps profiles, a folder each."""
