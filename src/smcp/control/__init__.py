"""The admin API: one file per resource, one literal list of routes, one order in which every request is handled."""
