"""Rules over what was rendered and what was seen of the machine: values in, findings out. Pure."""
