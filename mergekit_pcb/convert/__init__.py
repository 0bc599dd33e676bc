"""`mergekit-pcb convert`: a recipe of another method as the `pcb` recipe it means."""
