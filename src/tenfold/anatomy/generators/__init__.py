"""Generators of brain MRI behind one interface."""
