"""Background work: each job is a plain function, safe to run twice."""
