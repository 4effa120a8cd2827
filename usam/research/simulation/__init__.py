"""A labelling campaign replayed on a labelled set: the product's own ranking, retraining, gate and pseudo-labels, and a
scripted annotator.
"""
