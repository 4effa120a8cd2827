"""All that speaks Label Studio: its API, its labelling configurations, its regions."""
