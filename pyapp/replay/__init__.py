"""Read recorded workflow runs and play them through the database."""
