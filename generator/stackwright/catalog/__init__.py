"""Packaged facts: YAML rows, each with source and date, and their loader."""
