"""Head sets: the scores of a mask, computed and kept."""
