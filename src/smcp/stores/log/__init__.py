"""Append-only logs: the interface (`base`) and its back ends."""
