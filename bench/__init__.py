"""Every speed and quality figure of this project, as a row that its script can make again: `python -m bench`."""
