"""Solvers that the networks are trained on and checked against."""
