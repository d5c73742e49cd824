"""Files of the production (design 4): FITS, Parquet, manifests and where they lie."""
