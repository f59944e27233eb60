"""Bounds that no sensible spec meets."""

# Bounds that no use meets: above them memory or numbers end, hours later or in black pictures.
MOST_WIDE = 65_536  # of layers and latents; two layers of it hold 16 GiB
MOST_STEPS = 1_000_000_000  # weeks at a millisecond each
MOST_ROWS = 100_000_000  # that are read into memory or drawn
MOST_WEIGHT = 1_000_000  # of a term of the loss, beside others of weight 1
MOST_GUIDANCE = 100  # tens already saturate samples
LONGEST_NAME = 64  # characters of a modality's; several of them, and a key, make one file's name
LONGEST_RUN = 200  # characters of a run's, which file systems limit to 255
