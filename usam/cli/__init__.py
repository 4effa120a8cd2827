"""The commands of `usam`, a module per topic with `register(app)`; imports wait until one runs."""
