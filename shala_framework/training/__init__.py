"""The loop that both stages share, the stages, and what is told of their progress."""
