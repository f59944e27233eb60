"""Reading and writing of shards, rows in memory, and the latent store."""
