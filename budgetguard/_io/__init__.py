"""All I/O: the private event loop, HTTP, balance refreshes, credentials."""
