"""From files to packed batches, in numpy alone."""
