"""Read image data sets as they lie on a user's disk; nothing is ever downloaded."""
