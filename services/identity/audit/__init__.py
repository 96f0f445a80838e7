"""What a feed and images say of their patients, before the two are connected.

Everything here only reads: files, the sealed message store, the studies that were filed. What is
held in memory is a line for each number, never a message or an object.
"""
