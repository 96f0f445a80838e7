"""How fast Spinecho is, beside what others do in the same minute on the same machine.

``python -m benchmarks`` prints the table and ``--json`` keeps it. Figures are measured, never
asserted: nothing here fails because a machine is slow. The tests hold what is right; this holds
what it costs.
"""
