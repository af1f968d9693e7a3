"""The tests of Stackwright; folders mirror `generator/stackwright/`."""
