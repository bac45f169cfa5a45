"""Faults put into the package one at a time: the specification must catch each of them."""
