"""What a Worker may ask the platform for: a socket for each process, a key for each binding."""
