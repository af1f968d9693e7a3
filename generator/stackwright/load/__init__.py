"""Load tests: what is sent, the generator that sends it, and the folder of the results."""
