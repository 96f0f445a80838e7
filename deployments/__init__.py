"""Where and when: the command line, the supervised processes, and the Prefect catalogue.

This is the only room that knows the whole system; nothing imports it.
"""
