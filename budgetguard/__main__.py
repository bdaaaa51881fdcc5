"""`python -m budgetguard`."""

import sys

from budgetguard._cli.main import main

if __name__ == "__main__":
    sys.exit(main())
