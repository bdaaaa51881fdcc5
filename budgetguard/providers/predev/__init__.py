"""pre.dev."""
