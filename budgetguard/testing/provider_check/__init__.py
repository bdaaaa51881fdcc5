"""The checks that every provider has to pass, see `budgetguard.testing.check_provider`."""
