"""RUNS ON THE EMR PRIMARY NODE, around every step: standard library only."""
