"""The forms in which sets of faces are published, one module each; `tenfold.faces.data` reads folders and these."""
