"""Helpers that know nothing of benchmarks: files, git, plug-ins, signals, numbers as text."""
