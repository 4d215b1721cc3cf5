"""The self-test: whether the suite catches, places and names what is injected."""
