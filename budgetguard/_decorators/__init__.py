"""Turns a function into a guarded function of the same kind."""
