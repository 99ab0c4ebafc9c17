"""Growing: partitions for many tasks, and an archive for those of workflows that have ended."""
