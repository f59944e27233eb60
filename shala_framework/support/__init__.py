"""Foundations for all other parts: errors, seeds, files, URLs, the machine, progress."""
