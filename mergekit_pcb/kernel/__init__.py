"""The mathematics of PCB-Merging, in torch, numpy and numba, without mergekit."""
