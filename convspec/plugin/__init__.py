"""The pytest plugin: `hooks` is what pytest loads, `session` what its options resolve to."""
