"""Checks before a start, a module for each subject: its looks at the machine, read-only, and its rules over what they
show.

A module declares its checks as values (`check.Check`), and `checks` lists them all: a new check is one file and one
row.
"""
