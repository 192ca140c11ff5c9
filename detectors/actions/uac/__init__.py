"""A small SIP user agent client that places one kind of call: INVITE, then CANCEL.

headers       checked text: nothing taken from a SIP message enters a header unchecked
messages      the requests of one call, and the reading of replies
transactions  client transactions (RFC 3261 section 17.1, RFC 6026)
links         UDP socket and TCP connection to the proxy
call          the call itself: when to CANCEL, what the replies mean
"""
