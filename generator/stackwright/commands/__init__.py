"""What each command does: join the stages by passing values. One module per group of commands."""
