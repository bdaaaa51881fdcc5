"""Moonshot."""
