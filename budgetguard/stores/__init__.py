"""Stores: where the processes that spend from one account keep what they have to agree on.

A guard without a store keeps its ledger in the memory of its process. With one, all processes that name
the same store and the same account share its credits.
"""

from budgetguard.stores.redis import RedisStore
from budgetguard.stores.sqlite import SQLiteStore

__all__ = ["RedisStore", "SQLiteStore"]
