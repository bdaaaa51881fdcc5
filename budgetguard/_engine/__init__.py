"""One account in this process: its waiters, its holds, and when its balance is refreshed."""
