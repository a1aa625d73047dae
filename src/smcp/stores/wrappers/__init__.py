"""What every stored byte passes through, each concern a wrapper of the three interfaces: sealed, quota, metered."""
