"""``mergekit-pcb search``: method, settings and weights chosen by evaluation."""
