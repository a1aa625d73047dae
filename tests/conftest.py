"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A machine that is busy is no fault of what is tested: no example of Hypothesis has a time to be through in.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")
