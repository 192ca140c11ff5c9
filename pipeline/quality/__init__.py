"""Voice quality: from CDRs and RTCP reports to one record per leg and direction, joined with the SIP calls.

`refresh.Refresher` takes in what is new in the store and writes `leg_quality`, `cdr_call` and `call_leg`; the views
of the store join them with the calls. How the parts fit: docs in the module `refresh`.
"""
