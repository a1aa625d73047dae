"""Pages for people. Strict content security policy, nothing from elsewhere, works without the internet."""
