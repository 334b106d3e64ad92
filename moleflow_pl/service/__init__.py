"""At the line: a service that inspects what clients, folders and cameras bring, and keeps a record.

`app` is what uvicorn serves, `engine` inspects requests together, `database` is the record. A new
source or sink is one file in `sources/` or `sinks/`.
"""
