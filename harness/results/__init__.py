"""What is measured, as it is written down and read back."""
