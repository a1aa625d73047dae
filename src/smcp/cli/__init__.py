"""The command line: a client of the admin API like any other. Only `up`, `doctor` and `reset` touch this machine."""
