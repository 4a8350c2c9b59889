"""The pages of the dashboard. They choose and place; figures and tables come from elsewhere."""
