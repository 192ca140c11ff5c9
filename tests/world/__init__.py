"""A private telephone world for the tests: a real Kamailio, sipp, small SIP phones, all on loopback."""
