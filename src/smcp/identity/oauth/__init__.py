"""The authorization server: OAuth 2.1 for the tenants' servers and the admin API, one issuer per tenant."""
