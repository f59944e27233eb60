"""Stage 1: encoders, the posterior, decoders, and the terms of the objective."""
