"""The pytest plugin. Begin reading in `hooks`, which is what pytest loads."""
