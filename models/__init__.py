"""What the system knows, in plain Python: no I/O, no framework, the standard library only."""
