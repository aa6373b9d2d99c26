"""What operators look at: metrics, health, checks, the status as it changes."""
