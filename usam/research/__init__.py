"""What nobody needs in production: data sets, evaluation, simulation, the training of the nano family."""
