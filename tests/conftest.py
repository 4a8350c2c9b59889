"""Set before torch is imported anywhere: see harness/__init__.py."""

import estimators.built_in
import harness

assert harness
assert estimators.built_in  # some tests put the registry back to what it was before them
