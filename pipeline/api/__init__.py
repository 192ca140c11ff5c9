"""The public Python interface: what notebooks, scripts, the app and the command line ask of a store.

    import pipeline as hd

    hd.open("/var/lib/hepduck")
    hd.calls("state:failed", since="1h")

`pipeline` has the names of all modules here (`health` as a module), loaded when they are asked for.

Every function takes `store=`; without it, it means the store that `open` opened last, else the configured one.
Tables come as pandas DataFrames with times in UTC, aware; what is not known is missing, never zero.
"""
