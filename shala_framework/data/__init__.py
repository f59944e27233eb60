"""Reading, writing and splitting shards; rows in memory; the latent store."""
