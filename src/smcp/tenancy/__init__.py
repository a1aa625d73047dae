"""Tenants: their life cycle, and what one may take from the others."""
