"""Set before torch is imported anywhere: see harness/__init__.py."""

import harness

assert harness
