"""Reports made anew beside the live one, or counted again to compare; generations."""
