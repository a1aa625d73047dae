"""The ways of authenticating, one file each."""
