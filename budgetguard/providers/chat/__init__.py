"""Vendors of chat models, which sell by the token and are called with OpenAI's client."""
