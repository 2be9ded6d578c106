"""The one embedding table: where fields lie, how they are pooled, row-local access and Adam."""
