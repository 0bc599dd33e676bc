"""`mergekit-pcb inspect`: task vectors and competition of a recipe, without a merge."""
