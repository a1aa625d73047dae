"""What happened: a closed list of events, and the chained trail that they are kept in."""
