"""The web page of the service: what it did and does for each project, and what is ranked first.

view   what is shown, from store, registry and records
page   that as HTML
"""
