"""A whole stack on one machine: Label Studio, Redis, the service and a worker."""
