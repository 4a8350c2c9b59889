"""What every estimator is made of: the problem, the contract, the registry, vector arithmetic."""
