"""Masks accepted without a person, at a stated risk."""
