"""What the page looks like: a function per panel, from the model's values to components."""
