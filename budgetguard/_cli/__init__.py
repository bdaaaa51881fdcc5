"""The command line: `budgetguard`."""
