"""SAM 2 patched to say why it is unsure."""
