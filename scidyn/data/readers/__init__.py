"""One module per file format: how to recognise it and how to read it."""
