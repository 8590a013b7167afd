"""``python -m clf``."""

import sys

from clf.main import main

if __name__ == "__main__":
    sys.exit(main())
