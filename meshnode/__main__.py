"""``python -m meshnode`` is ``meshnode``."""

import sys

from meshnode.cli import main

if __name__ == "__main__":
    sys.exit(main())
