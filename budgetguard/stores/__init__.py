"""Stores, in which the accounts of several processes are kept."""
