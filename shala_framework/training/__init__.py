"""The training loop that all stages share, the stages themselves, and their metrics."""
