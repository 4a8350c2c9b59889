"""Experiments of their own, each a module to run; what they print is in docs/performance.md."""
