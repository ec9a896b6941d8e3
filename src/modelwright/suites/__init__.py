"""Families of models and tasks, and the sweeps of methods over them."""
