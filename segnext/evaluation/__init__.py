"""Evaluation: one confusion matrix over a data set, and what follows from it."""
