"""The one model: encode an image, decode prompts, refine masks; threads and caches around it."""
