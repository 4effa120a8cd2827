"""From labels to samples and head sets."""
