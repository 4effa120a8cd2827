"""The service: Label Studio around usam."""
