"""The benchmark matrix: metrics, plans of cells, and the problems that cells stand for."""
