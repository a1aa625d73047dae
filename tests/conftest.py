"""What holds for all tests."""

from hypothesis import HealthCheck, settings

# A machine that is busy is no fault of what is tested: no example of Hypothesis has a time to be through in.
# Nor is it one that of the first examples, which chance draws, too many were too large to be kept.
settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.load_profile("unhurried")
