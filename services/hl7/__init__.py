"""HL7 v2 in bytes and on sockets: ER7 codec, MLLP listener and sender, ACK policy.

No rule about orders or patients lives here; the use cases in `services.workflow` do that.
"""
