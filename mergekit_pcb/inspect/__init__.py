"""`mergekit-pcb inspect`: task vectors and competition of a recipe, without a merge.

For other tools: `inspect_recipe` in `collect` measures a recipe.
"""
