"""Models and data that install as packages: fine-tunes to merge, and tasks to score."""
