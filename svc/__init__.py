"""Bareline: a users service with no ORM."""
