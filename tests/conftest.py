"""Set before torch is imported anywhere: see harness/__init__.py."""

import sys
from collections.abc import Iterator

import pytest

import estimators.built_in
import harness
from estimators.registry import ESTIMATORS

assert harness
assert estimators.built_in  # some tests put the registry back to what it was before them


@pytest.fixture
def plugins_forgotten() -> Iterator[None]:
    """Forgets the plug-in files that a test loads into this process."""
    factories, modules = dict(ESTIMATORS._factories), set(sys.modules)
    yield
    ESTIMATORS._factories.clear()
    ESTIMATORS._factories.update(factories)
    for name in set(sys.modules) - modules:
        if name.startswith("faulty"):
            del sys.modules[name]
