"""Where pieces of work are done: on this machine, or by the workers of a Dask cluster."""
