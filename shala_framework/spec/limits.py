"""Bounds that no sensible spec meets."""

# Generous upper bounds. Values beyond them would exhaust memory or overflow, hours later or as black pictures.
MOST_WIDE = 65_536  # width of layers and latents; two layers of this width take 16 GiB
MOST_STEPS = 1_000_000_000  # weeks of training at one millisecond a step
MOST_ROWS = 100_000_000  # rows that are read into memory or drawn
MOST_WEIGHT = 1_000_000  # weight of one loss term beside others of weight 1
MOST_GUIDANCE = 100  # samples already saturate at tens
