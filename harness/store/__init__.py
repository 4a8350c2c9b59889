"""Journals of runs and trainings, and the tables read from them."""
