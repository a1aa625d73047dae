"""Measurements of the real platform, beside a yardstick that is measured in the same run. `python -m bench --help`."""
