"""Scripts outside the wheel: studies, baselines, generated data and pages."""
