"""The commands of `usam-backend`, a module a topic."""
