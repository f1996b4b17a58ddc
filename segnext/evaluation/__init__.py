"""Evaluation: one confusion matrix over a data set, and the measures that follow from it."""
