"""The executor for Dask clusters."""
