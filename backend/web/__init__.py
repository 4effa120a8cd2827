"""HTTP: predictions, events, and the page."""
