"""The checks; importing them fills the table, in the order in which they are made.

The first line of a docstring is what people see: it says what is right.
"""

from harness.conformance.checks import answers, manners, promises

__all__ = ["answers", "manners", "promises"]
