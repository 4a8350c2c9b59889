"""Brings results of other machines into a store."""
