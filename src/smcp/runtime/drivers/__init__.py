"""One file per kind of hosted server."""
