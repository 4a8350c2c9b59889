"""Runs airspeed velocity, and reads its result files."""
