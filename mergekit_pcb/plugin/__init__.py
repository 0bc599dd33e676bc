"""Every contact with mergekit's method interface, planner and executors."""
