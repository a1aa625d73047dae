"""Key-value: the interface (`base`) and its back ends."""
