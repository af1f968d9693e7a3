"""Decide: host, wishes and catalog in, plan out. Pure: no clock, no environment, no disk, no network."""
