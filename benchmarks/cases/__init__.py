"""Observed start-ups, and what is taken as the configurations of their models."""
