"""Volumes: what a hosted server keeps. Plain in memory while it runs, sealed in the tenant's storage otherwise.

`keeper` is their life, `snapshots` their history, `tar` the cells that carry their content in and out,
`frost` what holds the copies still meanwhile.
"""
