"""Stand-ins for what tests cannot have, at the true boundary: whole libraries and programs, never our own parts."""
