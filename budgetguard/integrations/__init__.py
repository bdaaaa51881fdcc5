"""Guards at the places where calls leave a program."""

from budgetguard.integrations.objects import guarded

__all__ = ["guarded"]
