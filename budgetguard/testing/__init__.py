"""Fakes, a clock turned by hand, and a sandbox, for the tests of programs that use budgetguard."""
