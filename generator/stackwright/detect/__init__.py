"""Looks at the machine: `host` joins what the others read, each of one part, into one Host."""
