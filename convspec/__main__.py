"""Run the command `convspec` as `python -m convspec`."""

import sys

from convspec.cli.main import main

sys.exit(main())
