"""Methods that several estimators share."""
