"""What a project is about: which objects it wants, which class they are, how much work a task still is."""
