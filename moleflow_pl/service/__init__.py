"""The inspection service: images from clients, folders and cameras, with a record of decisions.

`app` is the application that uvicorn serves, `engine` inspects requests in batches, `database` is
the record. Add a source or a sink as a file in `sources/` or `sinks/`; everything else is private.
"""
