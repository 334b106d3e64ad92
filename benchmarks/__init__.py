"""Measurements of the project against the method written down literally."""
