"""May you? Pure decisions over principals, actions and resources."""
