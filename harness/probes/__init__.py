"""One probe a file; each measures one thing about one cell, in the process that calls it."""
