"""What every engine's memory planner counts with. Pure."""
