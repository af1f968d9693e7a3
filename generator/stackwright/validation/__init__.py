"""Check a rendered stack: `rules` are pure, `live` looks at the machine, `compose_config` asks Compose."""
