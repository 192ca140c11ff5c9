"""Captures (pcap, pcapng): the SIP and HEP in them, as a mirror would have sent it."""
