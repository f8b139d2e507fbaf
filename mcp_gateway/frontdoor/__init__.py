"""Everything an agent can reach: HTTP and stdio, both eras, and what they are answered with."""
