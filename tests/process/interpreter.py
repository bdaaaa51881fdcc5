"""How the scripts are run, and what their fixture is."""

import os
from collections.abc import Callable

Script = Callable[..., str]

# The suite runs the short forms; BUDGETGUARD_LONG=1 asks for the long ones.
LONG = os.environ.get("BUDGETGUARD_LONG") == "1"

# Far more than any script needs, far less than what hangs in them hangs for.
PATIENCE = 900 if LONG else 90
STRICT = ("-X", "dev", "-W", "error")
# Since 3.12 a fork beside threads is a DeprecationWarning; it is what these scripts are about.
FORKING = ("-X", "dev", "-W", "error", "-W", "ignore::DeprecationWarning")
