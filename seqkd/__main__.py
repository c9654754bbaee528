"""`python -m seqkd` is the same as `seqkd`."""

import sys

from seqkd.cli import main

sys.exit(main())
