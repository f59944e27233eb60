"""What every part may use: errors, seeds, files, URLs, the machine, progress."""
