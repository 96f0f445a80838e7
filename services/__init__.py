"""How the system speaks and keeps, one folder per neighbour.

Use cases live in `services.workflow`; every other folder is an edge, a codec or a store. Prefect is
not imported here, except by `services.relay`, which starts flow runs.
"""
