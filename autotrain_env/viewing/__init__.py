"""Pictures and texts: of a run, of comparisons, of logs and of searches."""
