"""Which image a person should see next, and what to do about doubt."""
