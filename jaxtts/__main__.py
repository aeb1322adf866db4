"""`python -m jaxtts` is the `jaxtts` command."""

import sys

from jaxtts.cli import main

if __name__ == "__main__":
    sys.exit(main())
