"""Recipes as text: the position of each value, edits, and findings about them."""
