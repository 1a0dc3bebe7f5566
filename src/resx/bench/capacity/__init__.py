"""How many replicas hold an objective: measured service times and a simulation."""
