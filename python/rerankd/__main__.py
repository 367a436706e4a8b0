"""`python -m rerankd`: the same as the `rerankd` command."""

from __future__ import annotations

import sys

from rerankd.cli import main

if __name__ == "__main__":
    sys.exit(main())
