"""Helpers that do not depend on benchmarks: files, git, plug-ins, signals, numbers as text."""
