"""`python -m convspec` is the command `convspec`."""

import sys

from convspec.cli.main import main

sys.exit(main())
