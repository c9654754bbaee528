"""`python -m seqkd` is the same as `seqkd`."""

import sys

from seqkd.cli.main import main

sys.exit(main())
