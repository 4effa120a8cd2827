"""The web page of the service: what it did and does for each project, what is ranked first, and buttons.

surroundings  whether Label Studio and Redis answer, and what they say
overview      projects as cards
board         the parts behind all pages, and the threads they are asked in
rendering     templates, and the files that a page loads
routes        which address shows what
protocol      the service's protocol as a page
"""
