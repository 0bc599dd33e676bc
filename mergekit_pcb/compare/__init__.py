"""`mergekit-pcb compare`: one recipe's models merged by several methods, in a table."""
