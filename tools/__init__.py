"""Scripts beside the product: studies, baselines, and what made the shipped data."""
