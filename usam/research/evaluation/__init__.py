"""What heads are worth: tables over a data set, plots."""
