"""What every room stands on: ids, clock, errors, settings, crypto, observation, the JSON-RPC envelope."""
