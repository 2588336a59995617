"""The users: single ones here, and in modules of their own lists, exports, imports and made-up ones."""

from svc.users.handlers import build as build
