"""Growing: standbys, partitions, archives, and Citus."""
