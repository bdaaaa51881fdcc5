"""The pure part: amounts, ledger, policy, errors. No locks, threads or I/O; time is passed in."""
