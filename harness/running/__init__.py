"""How a plan is measured: worker processes, their limits, their order and time left."""
