"""Who is calling: credentials, and the ways of turning one into a principal."""
