"""Growing: partitions, an archive, and Citus."""
