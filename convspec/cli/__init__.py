"""The command line `convspec`: one file a command, each with `add_parser` and `run`. Begin reading in `main`."""

import argparse
from typing import TypeAlias

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
