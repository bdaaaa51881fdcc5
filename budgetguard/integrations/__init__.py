"""Guards for the code that sends calls: SDK clients, agents' tools, and servers' tools."""

from budgetguard.integrations._guarded_object import guarded

__all__ = ["guarded"]
