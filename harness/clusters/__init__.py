"""Runs work on Dask clusters."""
