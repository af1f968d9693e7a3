"""Watch a started stack until it answers: `health` judges (pure), `probe` asks, `watch` loops."""
