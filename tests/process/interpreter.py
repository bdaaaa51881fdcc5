"""How the scripts are run, and what their fixture is."""

from collections.abc import Callable

Script = Callable[..., str]

# Far more than any script needs, far less than what hangs in them hangs for.
PATIENCE = 90
STRICT = ("-X", "dev", "-W", "error")
# Since 3.12 a fork beside threads is a DeprecationWarning; it is what these scripts are about.
FORKING = ("-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning")
