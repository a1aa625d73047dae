"""People: accounts, their ways of signing in, invitations, and the browser sessions that follow."""
