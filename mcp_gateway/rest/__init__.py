"""Plain HTTP APIs behind the gateway: as routes that are passed through, and as tools."""
