"""Settings of this repository's own tests; the options and fixtures come from convspec.plugin."""

from hypothesis import HealthCheck, settings

pytest_plugins = ["pytester"]

# Times vary on shared machines: no deadline. Derandomised, so that a push that changes nothing fails nothing.
settings.register_profile(
    "quick", max_examples=30, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("thorough", settings.get_profile("quick"), max_examples=500, derandomize=False)
settings.load_profile("quick")
