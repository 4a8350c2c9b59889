"""Models and losses as people of meta-learning have them, and what each must come to."""
