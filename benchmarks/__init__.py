"""The ladder, in `test_ladder`, and the timings; `conftest` has the fixtures that time two sides in turn."""
