"""An engine that is none of the package's: one folder, registered with one value, to show that nothing else names
engines.
"""
