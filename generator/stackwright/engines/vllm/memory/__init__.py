"""How much of a GPU's memory an engine will take, before it is started. Pure; see docs/explanation/memory.md."""
