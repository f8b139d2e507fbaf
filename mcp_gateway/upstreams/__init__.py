"""The MCP servers behind us: started, spoken to in either era, listed, restarted, closed; everything bounded."""
