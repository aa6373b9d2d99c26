"""The edges: each speaks to one part of the outside world, and knows no other edge."""
