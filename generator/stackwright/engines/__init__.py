"""The families of serving programs, a folder each, and the memory rules that all share."""
