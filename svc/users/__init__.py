"""The users: single ones, lists, bulk, and what makes them up."""
