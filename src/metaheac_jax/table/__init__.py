"""The single embedding table: the layout of fields, pooling, row-local access and Adam."""
