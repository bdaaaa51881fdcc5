"""Tavily."""
