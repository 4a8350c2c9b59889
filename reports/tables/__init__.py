"""From the long table of a store to what figures and pages show. No number is made elsewhere."""
