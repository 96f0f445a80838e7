"""A simulated department: an EMR, a scanner, a reader and the anatomy they work on.

Independent of the code it exercises: it imports no codec, table or model of Spinecho, so that a
symmetric bug cannot pass. Everything it makes is synthetic.
"""
