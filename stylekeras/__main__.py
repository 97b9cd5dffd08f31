"""`python -m stylekeras` is the command line."""

import sys

from stylekeras.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
