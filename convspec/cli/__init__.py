"""The command line `convspec`: one file a command. Begin reading in `main`."""
