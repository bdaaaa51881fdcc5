"""Anchor Browser."""
