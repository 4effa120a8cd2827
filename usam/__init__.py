"""usam: a SAM 2 that says why it is unsure. The library; it knows nothing of Label Studio, Redis or HTTP."""

__version__ = "0.1.0"
