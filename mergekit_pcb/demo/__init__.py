"""`mergekit-pcb demo`: trains tiny models, merges and compares them, offline."""
