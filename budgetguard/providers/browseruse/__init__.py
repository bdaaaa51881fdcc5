"""Browser Use."""
