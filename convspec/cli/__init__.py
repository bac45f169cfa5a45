"""The command line `convspec`: one file a command, each with `add_arguments` and `run`. Begin reading in `main`."""
