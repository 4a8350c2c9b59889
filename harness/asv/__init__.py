"""Run airspeed velocity."""
