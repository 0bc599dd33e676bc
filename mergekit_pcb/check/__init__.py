"""`mergekit-pcb check`: what is wrong with a recipe, before anything is downloaded."""
