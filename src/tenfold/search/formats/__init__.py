"""The file formats that vectors come in, one module per family; `tenfold.search.data` is their public face."""
