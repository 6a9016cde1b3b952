"""What the core writes and reads: tensor files, records, shards, prepared data, weights folders."""
