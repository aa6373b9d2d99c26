"""The shell: wires the core to the edges, and speaks to people."""
