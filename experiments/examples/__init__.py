"""Programs that use what the commands write, without this package."""
