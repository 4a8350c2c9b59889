"""The figures, one function each; dashboard and static report use the same ones.

Every function takes rows of `reports.tables.cells` that may stand in one figure, and returns a
chart as wide as the page allows; small multiples have a width of their own.
"""
