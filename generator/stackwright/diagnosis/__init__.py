"""Known failures: rules as data (`failures.yaml`), matching (`rules`, pure), what is gathered, and the bundle."""
