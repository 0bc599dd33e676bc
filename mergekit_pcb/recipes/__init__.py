"""Recipes as text: where each value stands, edits, and findings about them."""
