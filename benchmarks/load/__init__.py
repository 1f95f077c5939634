"""
Processes that make load: clients, a publisher, producers and consumers.

Each obeys commands on its standard input, see `commands`. All except `clients` run on the
interpreter of the contender and import its application.
"""
