"""`python -m budgetguard`."""

import sys

from budgetguard.cli import main

if __name__ == "__main__":
    sys.exit(main())
